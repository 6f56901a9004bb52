"""Trains nothing but the coefficients of a merge, by the same loss as weights are.

There are a few hundred of them, they cannot learn texts by heart, and what comes out is an
ordinary merge recipe. The gradient of a coefficient is the product of the weights' gradient with a
task vector; see `calibration.mixture`.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from evomerge.checkpoints.durability import write_atomically
from evomerge.refinement.training.learning_curve import check_finite, has_settled, is_best
from evomerge.refinement.training.schedule import schedule_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evomerge.calibration.mixture import Mixture
    from evomerge.recipe.refine import Training
    from evomerge.refinement.training.passes import Passes
    from evomerge.refinement.training.student import Student

STATE = "coefficients.safetensors"


class CoefficientTraining:
    """Adam on the coefficients of task arithmetic.

    Args:
        mixture: The merge, in the student's model.
        student: Answers a pass with its loss.
        settings: How it is trained.
        rate: Highest learning rate; it falls with a cosine to a tenth.
        folder: Where its state is kept, so that it can be continued.

    Attributes:
        losses: The loss of each step.
        validation_losses: The loss on the validation texts, before the first step and then after
            every so many.
        best: The coefficients with the least of these, shape `(sources, groups)`, float64.
    """

    def __init__(
        self, mixture: Mixture, student: Student, settings: Training, rate: float, folder: Path
    ) -> None:
        self._mixture, self._student, self._settings = mixture, student, settings
        self._rate, self._file = rate, folder / STATE
        self._free = mixture.start().requires_grad_()
        self._optimizer = torch.optim.Adam([self._free], lr=rate, betas=(0.9, 0.95))
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.best = self._free.detach().clone()
        self._restore()

    def run(
        self,
        passes: Passes,
        validation: Passes | None,
        report: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Train to the end.

        Returns:
            Whether it came to the end, and was not stopped before.

        Raises:
            EvaluationError: A loss is NaN or infinite.
        """
        size, steps, every = schedule_of(self._settings, len(passes))
        if not self.validation_losses:
            self._compare(validation)
        for step in range(len(self.losses), steps):
            if has_settled(self.validation_losses, self._settings.patience):
                break
            indices = range(step * size, min((step + 1) * size, len(passes)))
            self._step(passes, indices, step / steps)
            if (step + 1) % every == 0 or step + 1 == steps:
                self._compare(validation)
                self._keep()
            report(step + 1, steps)
            if stop():
                self._keep()
                return False
        return True

    def _step(self, passes: Passes, indices: range, done: float) -> None:
        read = [self._read(passes, index) for index in indices]
        labels = sum(len(each["labels"]) for each in read)
        self._mixture.write(self._free.detach())
        model = self._student.model.requires_grad_(requires_grad=True)
        total = 0.0
        with torch.enable_grad():
            for each in read:
                loss = self._student(**each, num_items_in_batch=labels)["loss"]
                torch.autograd.backward(loss)
                total += float(loss.detach())
        model.requires_grad_(requires_grad=False)
        updates = len(self.losses)
        check_finite("loss", total, step=updates + 1, updates=updates)
        self._free.grad = self._mixture.project(len(self._free))
        gradient = float(self._free.grad.norm())
        check_finite("gradient", gradient, step=updates + 1, updates=updates)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        self._optimizer.step()
        self.losses.append(total)

    def _read(self, passes: Passes, index: int) -> dict[str, Tensor]:
        device = self._student.model.device
        return {name: each.to(device) for name, each in passes[index].items()}

    @torch.no_grad()
    def _compare(self, validation: Passes | None) -> None:
        if validation is None:
            self.best = self._free.detach().clone()
            return
        self._mixture.write(self._free.detach())
        read = (self._read(validation, index) for index in range(len(validation)))
        found = [self._student(**each)["loss"] for each in read]
        self.validation_losses.append(float(torch.stack(found).mean()))
        updates = len(self.losses)
        check_finite("validation loss", self.validation_losses[-1], step=updates, updates=updates)
        if is_best(self.validation_losses):
            self.best = self._free.detach().clone()

    def _keep(self) -> None:
        moments = self._optimizer.state[self._free]
        tensors: dict[str, Tensor] = {
            "free": self._free.detach(),
            "best": self.best,
            **{name: value for name, value in moments.items() if isinstance(value, Tensor)},
        }
        losses = {"losses": self.losses, "validation_losses": self.validation_losses}
        about = {name: json.dumps(value) for name, value in losses.items()}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, save(tensors, about))

    def _restore(self) -> None:
        if not self._file.exists():
            return
        with safe_open(self._file, "pt") as content:
            about = content.metadata()
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        self.losses = json.loads(about["losses"])
        self.validation_losses = json.loads(about["validation_losses"])
        self.best = tensors.pop("best")
        with torch.no_grad():
            self._free.copy_(tensors.pop("free"))
        self._optimizer.state[self._free] = tensors
