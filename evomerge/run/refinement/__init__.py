"""The winner of a search is refined, and what it became is compared with it."""
