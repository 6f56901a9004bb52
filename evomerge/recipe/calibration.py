"""The texts that models are measured on before they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from evomerge.recipe.paths import absolute
from evomerge.recipe.schema import Positive, Strict, Text
from evomerge.recipe.stack import BASE

if TYPE_CHECKING:
    from pathlib import Path


def _at_least_one(texts: str | Mapping[str, str]) -> str | Mapping[str, str]:
    if not texts:
        raise ValueError("names no file; give one file, or one for each source by its name")
    return texts


class CalibrationSettings(Strict):
    """Texts that models are run on to measure them.

    Attributes:
        texts: A file for all models, or a file for each source by its name; `base` gives the base
            model's. A `.txt` file has a document per line, a `.jsonl` file an object with `text`,
            or with `prompt` and `completion`. Paths start from the recipe's folder.
        samples: Most documents of a file that are used.
        max_tokens: A longer document is cut to its first so many tokens.
    """

    texts: Annotated[Text | Mapping[Text, Text], AfterValidator(_at_least_one)]
    samples: Positive = 100
    max_tokens: Positive = 512

    def file(self, label: str) -> str | None:
        """The texts' file of a source, or of the base if `BASE`; None if none is given."""
        return self.texts.get(label) if isinstance(self.texts, Mapping) else self.texts

    def files(self) -> tuple[str, ...]:
        """All files of texts, each once."""
        given = self.texts.values() if isinstance(self.texts, Mapping) else (self.texts,)
        return tuple(dict.fromkeys(given))

    def under(self, root: Path) -> CalibrationSettings:
        """The same with absolute paths, where those that are relative start from `root`."""
        texts = self.texts
        if isinstance(texts, Mapping):
            under: str | dict[str, str] = {k: absolute(v, root) for k, v in texts.items()}
        else:
            under = absolute(texts, root)
        return self.model_copy(update={"texts": under})

    def of(self, labels: set[str]) -> CalibrationSettings | None:
        """The texts of some of the sources and of the base; None if there are none."""
        if not isinstance(self.texts, Mapping):
            return self
        texts = {name: file for name, file in self.texts.items() if name in labels | {BASE}}
        return self.model_copy(update={"texts": texts}) if texts else None

    def unknown(self, labels: set[str]) -> list[str]:
        """The names that texts are given for and that no source has."""
        given = self.texts if isinstance(self.texts, Mapping) else {}
        return sorted(given.keys() - labels - {BASE})
