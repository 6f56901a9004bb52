"""The tables of the run store. A new version appends a step; old steps never change."""

from __future__ import annotations

APPLICATION_ID = 0x65766F6D  # "evom"

STEPS = (
    """
    CREATE TABLE run (
        key   TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;

    -- The frozen items of each task, in their drawn order.
    CREATE TABLE items (
        task     TEXT NOT NULL,
        split    TEXT NOT NULL CHECK (split IN ('search', 'held_out')),
        place    INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (task, split, place)
    ) STRICT;

    CREATE TABLE candidates (
        number     INTEGER PRIMARY KEY,
        digest     TEXT NOT NULL,
        kind       TEXT NOT NULL CHECK (kind IN ('base', 'source', 'baseline', 'offspring')),
        name       TEXT,
        generation INTEGER NOT NULL,
        genotype   TEXT,
        recipe     TEXT NOT NULL,
        parents    TEXT NOT NULL,
        asked_at   TEXT NOT NULL
    ) STRICT;
    CREATE INDEX candidates_by_digest ON candidates (digest);

    -- NaN would be stored as NULL: an evaluated candidate without a fitness is refused here.
    CREATE TABLE outcomes (
        candidate INTEGER PRIMARY KEY REFERENCES candidates (number),
        fitness   REAL,
        stage     TEXT,
        reason    TEXT,
        merge_s   REAL,
        forward_s REAL,
        total_s   REAL,
        told_at   TEXT NOT NULL,
        CHECK ((fitness IS NULL) = (stage IS NOT NULL)),
        CHECK ((stage IS NULL) = (reason IS NULL))
    ) STRICT;

    -- One float64 per item, little-endian, in the order of the items table.
    CREATE TABLE scores (
        candidate INTEGER NOT NULL REFERENCES candidates (number),
        split     TEXT NOT NULL CHECK (split IN ('search', 'held_out')),
        task      TEXT NOT NULL,
        score     REAL NOT NULL,
        items     BLOB NOT NULL,
        PRIMARY KEY (candidate, split, task)
    ) STRICT;
    """,
    # Candidates that were stopped and scored on all search items at the end have scores of both.
    """
    CREATE TABLE wider_scores (
        candidate INTEGER NOT NULL REFERENCES candidates (number),
        split     TEXT NOT NULL CHECK (split IN ('search', 'confirm', 'held_out')),
        task      TEXT NOT NULL,
        score     REAL NOT NULL,
        items     BLOB NOT NULL,
        truncated REAL,
        PRIMARY KEY (candidate, split, task)
    ) STRICT;
    INSERT INTO wider_scores SELECT *, NULL FROM scores ORDER BY rowid;
    DROP TABLE scores;
    ALTER TABLE wider_scores RENAME TO scores;
    """,
    # Items that only finalists see; what tells equal scores apart.
    """
    CREATE TABLE wider_items (
        task     TEXT NOT NULL,
        split    TEXT NOT NULL CHECK (split IN ('search', 'confirm', 'held_out')),
        place    INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (task, split, place)
    ) STRICT;
    INSERT INTO wider_items SELECT * FROM items ORDER BY rowid;
    DROP TABLE items;
    ALTER TABLE wider_items RENAME TO items;
    ALTER TABLE scores ADD COLUMN sureness REAL;
    """,
    # What comes out of a refinement, and what it is compared with.
    """
    CREATE TABLE wider_candidates (
        number     INTEGER PRIMARY KEY,
        digest     TEXT NOT NULL,
        kind       TEXT NOT NULL CHECK (
            kind IN ('base', 'source', 'baseline', 'offspring', 'refined', 'control')
        ),
        name       TEXT,
        generation INTEGER NOT NULL,
        genotype   TEXT,
        recipe     TEXT NOT NULL,
        parents    TEXT NOT NULL,
        asked_at   TEXT NOT NULL
    ) STRICT;
    INSERT INTO wider_candidates SELECT * FROM candidates ORDER BY rowid;
    DROP TABLE candidates;
    ALTER TABLE wider_candidates RENAME TO candidates;
    CREATE INDEX candidates_by_digest ON candidates (digest);
    """,
)
