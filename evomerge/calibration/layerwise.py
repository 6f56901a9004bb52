"""Calibrates a merge layer by layer, from bottom to top, and writes it as it goes.

In memory are one model, one layer of each source, and the hidden states of all texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from evomerge.calibration.decoder import Decoder, run
from evomerge.calibration.writing import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from evomerge.calibration.family import Family
    from evomerge.merging.sources import SourceLibrary
    from evomerge.sensitivity.statistics import Progress


class Solver(Protocol):
    """Finds better weights for a layer of the merge."""

    def __call__(self, walk: LayerwiseMerge, index: int, merged: nn.Module) -> dict[str, Tensor]:
        """Return new parameters by their name within the layer.

        Args:
            walk: Where it is called from: the models, the texts' hidden states and calls.
            index: Which layer.
            merged: The layer with the weights of the merge.
        """
        ...


class LayerwiseMerge:
    """A merge whose layers are solved one after the other.

    Args:
        family: The models and texts.

    Attributes:
        family: The same.
        decoder: The layers.
        hidden: What the merge's current layer reads, for each source and text of it, each of
            shape `(1, tokens, width)`.
        calls: What layers are called with besides, for each source, text and layer.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.decoder = Decoder(family.model, family.names)
        self.decoder.set_outside(family.merged)
        begun = [[self.decoder.begin(text.ids) for text in own] for own in family.texts]
        self.hidden = [[hidden for hidden, _ in own] for own in begun]
        self.calls = [[calls for _, calls in own] for own in begun]

    def stream(self, source: int) -> list[Tensor]:
        """What the first layer of a source reads, for each of its texts."""
        self.decoder.set_outside(lambda name: self.family.source(source, name))
        return [self.decoder.begin(text.ids)[0] for text in self.family.texts[source]]

    def source(self, source: int, index: int) -> nn.Module:
        """A layer with the weights of a source."""
        return self.decoder.layer(index, lambda name: self.family.source(source, name))

    def write(
        self,
        out: Path,
        library: SourceLibrary,
        solve: Solver,
        files: Mapping[str, bytes],
        progress: Progress | None = None,
    ) -> None:
        """Solve all layers and write the model.

        Args:
            out: The folder; must not exist or be empty.
            library: Has config and tokenizer.
            solve: Finds a layer's weights.
            files: Further files to put beside the weights, by name.
            progress: Told the layers done, and of how many.

        Raises:
            MergeError: A result is not finite.
            OutputError: `out` cannot be written; DiskFullError if the disk is full.
        """
        inside = [n for i in range(len(self.decoder)) for n in self.decoder.names(i).values()]
        outside = sorted(self.family.jobs.keys() - set(inside))

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for index in range(len(self.decoder)):
                yield from self._advance(index, solve).items()
                if progress:
                    progress(index + 1, len(self.decoder))
            for name in outside:
                yield name, self.family.merged(name)

        recipe, jobs = self.family.recipe, self.family.jobs
        write_model(recipe, jobs, library, out, [*inside, *outside], tensors(), files)

    def _advance(self, index: int, solve: Solver) -> dict[str, Tensor]:
        """Solve a layer and run it; its tensors by their stored names."""
        layer = self.decoder.layer(index, self.family.merged)
        changed = solve(self, index, layer)
        written = {}
        for name, stored in self.decoder.names(index).items():
            dtype = self.family.jobs[stored].dtype
            found = changed[name].to(dtype) if name in changed else self.family.merged(stored)
            written[stored] = found
        # The next layer reads what the stored weights make.
        solved = self.decoder.layer(index, written.__getitem__)
        self.hidden = [
            [run(solved, hidden, calls[index]) for hidden, calls in zip(*own, strict=True)]
            for own in zip(self.hidden, self.calls, strict=True)
        ]
        return written
