"""Looking into a step: the batches that it draws and the gradients that it updates with.

Each looker is put around one part of a running step and read afterwards. Nothing here decides what
is right, knows a clock, or is in place while a window is measured.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import _disable_current_modes

from bench.workload.data import Batch
from bench.workload.step import TrainStep

_LARGE = 1e4
"""Norm of an enlarged gradient tensor: far beyond what gradients are clipped to."""


class WatchedBatches:
    """Hands batches through and remembers what was in their images.

    They are read on the host, from a copy of what lies on the device: nothing is computed there,
    and no graph is cut.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._digests: set[bytes] = set()
        self.seen = 0
        self.deviation: float | None = None
        """Standard deviation of the pixels, of the batch where it is least; null: none seen."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        # What a loader computes is none of the model's work, which others may be counting.
        with _disable_current_modes():
            batch = next(self._batches)
            pixels = batch[0].cpu().contiguous()
            deviation = float(pixels.float().std(correction=0))
            digest = hashlib.blake2b(pixels.view(torch.uint8).numpy().tobytes()).digest()
        self.seen += 1
        self._digests.add(digest)
        self.deviation = deviation if self.deviation is None else min(self.deviation, deviation)
        return batch

    @property
    def distinct(self) -> int:
        """How many different batches there were."""
        return len(self._digests)


class WatchedGradients:
    """Looks at gradients twice: as backward leaves them, and as the optimizer is given them.

    Backward has averaged them over the ranks: a hook of a parameter would see a rank's own.

    Args:
        step: Whose updates are watched, while the context lasts.
        left: Notes something of a gradient that backward left.
        given: Notes the same of a gradient that the optimizer is given.
    """

    def __init__(
        self,
        step: TrainStep,
        *,
        left: Callable[[torch.Tensor], Any],
        given: Callable[[torch.Tensor], Any],
    ) -> None:
        self._step = step
        self._looks = {"left": left, "given": given}
        self._left: dict[torch.Tensor, Any] = {}
        self._hook: Any = None
        self.updates: list[tuple[list[Any], list[Any]]] = []
        """For every update: what backward left and what was given, parameter by parameter; a
        gradient that was taken away is null."""

    def __enter__(self) -> Self:
        self._step.before_update = self._leave
        self._hook = self._step.optimizer.register_step_pre_hook(self._give)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._step.before_update = None
        self._hook.remove()

    def _leave(self) -> None:
        parameters = [p for group in self._step.optimizer.param_groups for p in group["params"]]
        self._left = {p: self._seen("left", p) for p in parameters if p.grad is not None}

    def _give(self, *_: Any) -> None:
        given = [self._seen("given", parameter) for parameter in self._left]
        self.updates.append((list(self._left.values()), given))
        self._left.clear()

    def _seen(self, moment: str, parameter: torch.Tensor) -> Any:
        if parameter.grad is None:
            return None
        return self._looks[moment](self._step.engine.local(parameter.grad))


class OneSpeaks(torch.nn.Module):
    """The step's own loss, times 1 on the rank that speaks and times 0 on the others.

    Args:
        criterion: The step's own.
        speaks: Whether this rank does.
    """

    def __init__(self, criterion: torch.nn.Module, speaks: bool) -> None:
        super().__init__()
        self._criterion = criterion
        self._share = 1.0 if speaks else 0.0

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
        """Return the loss, or its product with 0."""
        return self._criterion(outputs, labels) * self._share


def given_norm(
    step: TrainStep, criterion: torch.nn.Module, run: Callable[[], None]
) -> float | None:
    """Return the norm of what this rank's optimizer was given of gradients, with another loss.

    Infinity: this rank holds no part of any weight, so that nobody can give it any. Null: it cannot
    be told, since every update was skipped, or a gradient is not finite.

    Args:
        step: What is stepped.
        criterion: Stands for the step's own meanwhile.
        run: Makes a few updates and waits for them.
    """
    norms: list[torch.Tensor] = []
    held: list[int] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        held.append(sum(step.engine.local(p).numel() for p in parameters))
        norms.extend(norm(step.engine.local(p.grad)) for p in parameters if p.grad is not None)

    own, step.criterion = step.criterion, criterion
    hook = step.optimizer.register_step_pre_hook(note)
    try:
        run()
    finally:
        hook.remove()
        step.criterion = own
    found = _together(list(norms))
    if not held or not math.isfinite(found):
        return None
    return found if found > 0 or any(held) else math.inf


def enlarged(gradient: torch.Tensor) -> torch.Tensor:
    """Make a gradient large, in place, and return its norm as `norm` does.

    A bound on gradients does nothing to those of a model that has learned its few batches by heart,
    and shows on these.
    """
    before = norm(gradient)
    factor = torch.where(before > 0, _LARGE / before, 1.0)
    gradient.mul_(factor.to(gradient.dtype))
    return norm(gradient)


def norm(gradient: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of a gradient: a scalar on its device, not yet waited for."""
    dense = gradient.coalesce().values() if gradient.is_sparse else gradient
    found: torch.Tensor = torch.linalg.vector_norm(dense.detach(), dtype=torch.float32)
    return found


def norm_kept(updates: Sequence[tuple[list[Any], list[Any]]]) -> float | None:
    """Return norm given / norm left, of the first update.

    Later ones start from weights that enlarged gradients have moved anywhere. Null: there was no
    update, or a norm was zero or not finite. Waits for the device.

    Args:
        updates: Of `WatchedGradients` that note norms.
    """
    if not updates:
        return None
    before, after = (_together(norms) for norms in updates[0])
    if before == 0 or not math.isfinite(before) or not math.isfinite(after):
        return None
    return after / before


def _together(norms: list[torch.Tensor | None]) -> float:
    known = [norm for norm in norms if norm is not None]
    return float(torch.stack(known).cpu().double().norm()) if known else 0.0
