"""Three skills with real labelled items: French verbs, English words, Python expressions."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import sysconfig
import tokenize
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from items import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FRENCH_TENSES = {"Imparfait": "imparfait", "Futur": "futur"}
# Where mlconjug3 keeps each person. "je" is left out: before a vowel it is written "j'".
FRENCH_PERSONS = {"nous": 3, "vous": 4, "ils": 5}
WORD_CLASSES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
EXPRESSION_KINDS: dict[type[ast.AST], str] = {
    ast.BinOp: "arithmetic",
    ast.Call: "call",
    ast.Compare: "comparison",
    ast.Subscript: "index",
}
OPERATIONS = (*EXPRESSION_KINDS, ast.Attribute, ast.BoolOp, ast.UnaryOp)
# Test suites quote source code in odd ways, and not every Python ships them.
SKIPPED_FOLDERS = frozenset(
    {"dist-packages", "idle_test", "lib2to3", "site-packages", "test", "tests"}
)
MAX_EXPRESSION_CHARS = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """A named source of items.

    Attributes:
        name: The name of the skill, of its expert and of its lm-eval task.
        package: The package its data come from; empty for Python itself.
        groups: Lists, for each word or document, the items that can be asked about it.
    """

    name: str
    package: str
    groups: Callable[[], Iterable[tuple[Item, ...]]]


def packaged_file(package: str, path: str) -> Path:
    """A data file of an installed package, found without importing the package."""
    try:
        file = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        message = f"{package} is not installed: pip install 'evomerge[quickstart]'"
        raise SystemExit(message) from error
    return file


def french_items(
    verbs: dict[str, dict[str, str]],
    endings: dict[str, dict[str, dict[str, list[tuple[int, str | None]]]]],
) -> Iterator[tuple[Item, ...]]:
    """Asks for each verb in two tenses and three persons.

    Args:
        verbs: For each infinitive its `root` and the `template` that inflects it.
        endings: For each template, mood and tense, pairs of a person and an ending.

    Yields:
        The items of one verb.
    """
    for verb in sorted(verbs):
        if not verb.isalpha():
            continue
        root, indicative = verbs[verb]["root"], endings[verbs[verb]["template"]]["Indicatif"]
        cells = (
            (tense, person, dict(indicative[key]).get(number))
            for key, tense in FRENCH_TENSES.items()
            for person, number in FRENCH_PERSONS.items()
        )
        yield tuple(
            Item(
                id=verb,
                question=f"French {tense}, {person}, {verb}:",
                answer=f"{root}{ending}",
            )
            for tense, person, ending in cells
            if ending is not None
        )


def word_items(rows: Iterable[Sequence[str]]) -> Iterator[tuple[Item, ...]]:
    """Asks for the class of every word that has only one.

    Args:
        rows: A word and its class, then inflections, which are not used.

    Yields:
        The one item of a word.
    """
    classes: dict[str, set[str]] = {}
    for word, word_class, *_ in rows:
        classes.setdefault(word, set()).add(word_class)
    for word in sorted(classes):
        if len(classes[word]) == 1 and word.isalpha() and word.islower() and len(word) > 2:
            yield (
                Item(
                    id=word,
                    question=f"Word: {word}. Part of speech:",
                    answer=WORD_CLASSES[min(classes[word])],
                    choices=tuple(WORD_CLASSES.values()),
                ),
            )


def expression_items(document: str, source: str) -> tuple[Item, ...]:
    """Asks what the outermost operation of each short, nested expression of a file is."""
    lines = source.encode().splitlines()
    items = {}
    for node in ast.walk(ast.parse(source)):
        kind = EXPRESSION_KINDS.get(type(node))
        if kind is None or not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
            continue
        text = lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()
        if 8 <= len(text) <= MAX_EXPRESSION_CHARS and _is_nested(node):
            question = f"Python expression `{text}`, kind:"
            items[text] = Item(
                id=document,
                question=question,
                answer=kind,
                choices=tuple(EXPRESSION_KINDS.values()),
            )
    return tuple(items.values())


def _is_nested(node: ast.expr) -> bool:
    """Whether another kind of operation stands inside, so that no single sign gives it away."""
    return any(
        isinstance(inner, OPERATIONS) and type(inner) is not type(node) for inner in ast.walk(node)
    )


def _french_groups() -> Iterator[tuple[Item, ...]]:
    folder = "mlconjug3/data/conjug_manager"
    verbs = packaged_file("mlconjug3", f"{folder}/verbs-fr.json")
    endings = packaged_file("mlconjug3", f"{folder}/conjugation-fr.json")
    return french_items(
        json.loads(verbs.read_text(encoding="utf-8")),
        json.loads(endings.read_text(encoding="utf-8")),
    )


def _word_groups() -> Iterator[tuple[Item, ...]]:
    path = packaged_file("lemminflect", "lemminflect/resources/infl_lu.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as rows:
        yield from word_items(csv.reader(rows))


def _expression_groups() -> Iterator[tuple[Item, ...]]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        document = path.relative_to(library)
        if SKIPPED_FOLDERS.isdisjoint(document.parts):
            yield expression_items(document.as_posix(), _source(path))


def _source(path: Path) -> str:
    with tokenize.open(path) as file:  # a source file may declare its encoding
        return file.read()


SKILLS = (
    Skill(name="french", package="mlconjug3", groups=_french_groups),
    Skill(name="words", package="lemminflect", groups=_word_groups),
    Skill(name="python", package="", groups=_expression_groups),
)
