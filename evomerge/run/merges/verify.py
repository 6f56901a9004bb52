"""Has an installed mergekit merge what a recipe describes, and compares every tensor."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoints import open_checkpoint
from evomerge.errors import MergeError, VersionError
from evomerge.merging.engine import merge_tensor
from evomerge.run.merges.mergekit_text import mergekit_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe

ORACLE = "EVOMERGE_ORACLE"
"""Environment variable that names a Python with mergekit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One tensor, merged here and by mergekit.

    Attributes:
        name: The tensor's name.
        ulps: Largest distance of two entries, in numbers of the stored dtype from one to the
            other; None if the tensors cannot be compared.
        problem: Why they cannot.
    """

    name: str
    ulps: int | None = None
    problem: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether all bits are the same."""
        return self.ulps == 0

    def __str__(self) -> str:
        if self.is_equal:
            return f"{self.name}: equal"
        return f"{self.name}: {self.problem or f'{self.ulps} ulps apart'}"


def compare_with_mergekit(
    recipe: MergeRecipe, library: SourceLibrary, python: Path | None = None
) -> list[Comparison]:
    """Merge a recipe here and by mergekit, and compare the tensors.

    Args:
        recipe: The recipe.
        library: Opens its models.
        python: A Python with mergekit; that of $EVOMERGE_ORACLE, else this one, if absent.

    Raises:
        RecipeError: mergekit cannot express the recipe.
        VersionError: There is no mergekit.
        MergeError: mergekit failed.
    """
    text, _ = mergekit_text(recipe, library)
    program = "mergekit-multi" if recipe.inner else "mergekit-yaml"
    command = _command(python or Path(os.environ.get(ORACLE) or sys.executable), program)
    with tempfile.TemporaryDirectory(prefix="evomerge-verify-") as folder:
        config = Path(folder, "mergekit.yaml")
        config.write_text(text)
        theirs = Path(folder, "merged")
        stages = (f"--intermediate-dir={folder}/stages", f"--out-path={theirs}")
        out = stages if recipe.inner else (theirs,)
        # A model card would ask the Hub about every model.
        bare = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
        seed = f"--random-seed={recipe.seed}"
        adapters = (f"--lora-merge-cache={folder}/adapters", "--lora-merge-dtype=float32")
        done = subprocess.run(  # noqa: S603 (the user's own mergekit)
            [command, config, *out, *bare, seed, *adapters],
            cwd=library.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise MergeError(f"mergekit failed: {reason}")
        return list(_compare(recipe, library, open_checkpoint(str(theirs), root=Path("/"))))


def _command(python: Path, program: str) -> Path:
    command = python.absolute().parent / program
    if not command.exists():
        raise VersionError(
            f"{command}: is missing; install it beside that Python (pip install mergekit==0.1.5) "
            f"or name a Python that has it with --python or ${ORACLE}"
        )
    return command


def _compare(
    recipe: MergeRecipe, library: SourceLibrary, theirs: Checkpoint
) -> Iterator[Comparison]:
    operands = library.operands(recipe)
    jobs = {job.name: job for job in operands.plan.jobs}
    for name in sorted(jobs.keys() | theirs.headers.keys()):
        if name not in jobs or name not in theirs.headers:
            where = "by mergekit" if name in jobs else "here"
            yield Comparison(name=name, problem=f"is not made {where}")
            continue
        ours = torch.empty(jobs[name].shape, dtype=jobs[name].dtype)
        merge_tensor(operands, jobs[name], ours)
        yield _difference(name, ours, theirs.read(name))


def _difference(name: str, ours: Tensor, theirs: Tensor) -> Comparison:
    found, expected = ((t.dtype, tuple(t.shape)) for t in (ours, theirs))
    if found != expected:
        return Comparison(name=name, problem=f"{found} here, {expected} by mergekit")
    if ours.numel() == 0:
        return Comparison(name=name, ulps=0)
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    ordered = []
    for tensor in (ours, theirs):
        bits = tensor.contiguous().view(whole).to(torch.int64)
        # Negative numbers fall as their bits rise.
        signed = torch.where(bits < 0, torch.iinfo(whole).min - bits, bits)
        ordered.append(signed if tensor.is_floating_point() else bits)
    return Comparison(name=name, ulps=int((ordered[0] - ordered[1]).abs().max()))
