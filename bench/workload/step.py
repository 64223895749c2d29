"""The step itself: what `advance` issues between two fences, for training and for inference.

It counts what it is given (samples, batches) and never looks at a clock; the one exception is the
loader timer, which is switched on in the diagnostic pass only. Nothing here waits for the device,
reads a value or prints.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator

import torch

from bench.backends.base import Device
from bench.scenarios.schema import Knobs
from bench.workload.data import Batch
from bench.workload.engines import Engine, PlainEngine
from bench.workload.errors import BadCase
from bench.workload.optimizers import UpdateCounter
from bench.workload.scaling import LossScaling

_DIGEST_BYTES = 16


class TimedBatches:
    """Adds up the time spent waiting for the next batch. Unit: seconds."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        before = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - before
        return batch

    def wait_s(self) -> float:
        """Return the time waited so far. Unit: seconds."""
        return self.waited_s


class Step(ABC):
    """Issues micro-batches; the target that is measured."""

    def __init__(
        self, device: Device, module: torch.nn.Module, batches: Iterator[Batch], knobs: Knobs
    ) -> None:
        self._device = device
        self.module = module
        self._knobs = knobs
        self.batches = batches
        self.micro_batches = 0
        self.samples = 0
        self.batch_sizes: set[int] = set()
        """Every batch size that came out of the loader."""
        self.image_sizes: set[int] = set()
        """Every width that came out of the loader. Unit: pixels."""
        self._input_type = floating_type(module)

    @abstractmethod
    def advance(self, micro_batches: int) -> None:
        """Issue so many micro-batches without waiting for any."""

    @abstractmethod
    def output(self) -> torch.Tensor | None:
        """Return the tensor that holds the last loss (training) or output (inference)."""

    def discard(self, micro_batches: int) -> None:
        """Draw so many batches, which count as nothing."""
        for _ in range(micro_batches):
            next(self.batches)
        self.fence()

    def fence(self) -> None:
        """Wait for everything issued."""
        self._device.fence()

    def compiles(self) -> int:
        """Return how many compilations the device has counted so far."""
        return self._device.counters().compiles

    def executions(self) -> int | None:
        """Return how many graphs the device has executed so far; null: it executes none."""
        return self._device.counters().executions

    def residual(self) -> float:
        """Return the extra time of the first read of what the last update left. Unit: seconds.

        A second tensor of the same kind is read at once: what remains after subtracting that is not
        the cost of a copy, but work that the fence did not wait for. It is another tensor because a
        device may keep the copy of the first.
        """
        first, second = self._witnesses()
        start = time.perf_counter()
        first.detach().cpu()
        between = time.perf_counter()
        second.detach().cpu()
        return max(0.0, (between - start) - (time.perf_counter() - between))

    @abstractmethod
    def _witnesses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two small tensors that depend on the last work issued."""

    def _next(self) -> Batch:
        images, labels = next(self.batches)
        self.micro_batches += 1
        size = images.shape[0]
        self.samples += size
        self.batch_sizes.add(size)
        self.image_sizes.add(images.shape[-1])
        if images.dtype != self._input_type:
            images = images.to(self._input_type)
        if self._knobs.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels


class TrainStep(Step):
    """Forward, backward, and an update every `gradient_accumulation` micro-batches."""

    def __init__(
        self,
        device: Device,
        module: torch.nn.Module,
        batches: Iterator[Batch],
        knobs: Knobs,
        *,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        super().__init__(device, module, batches, knobs)
        self.engine = engine
        self.optimizer = optimizer
        self.counter = UpdateCounter(optimizer, engine.calls_per_update)
        self.before_update: Callable[[], None] | None = None
        """Called when backward has left all gradients, those of other ranks averaged in and without
        the scale of their loss; null while anything is timed."""
        self.scaling: LossScaling | None = None
        """Null: the gradients' type needs none."""
        if knobs.precision == "amp-fp16":
            self.scaling = LossScaling(device.torch_device.type)
        self.criterion: torch.nn.Module = torch.nn.CrossEntropyLoss()
        self._loss: torch.Tensor | None = None
        self._smallest = _smallest_parameters(module, engine)

    def advance(self, micro_batches: int) -> None:
        """Issue so many micro-batches, and the updates that fall among them."""
        every = self._knobs.gradient_accumulation
        for _ in range(micro_batches):
            images, labels = self._next()
            if self.micro_batches % every:
                with self.engine.accumulate():
                    self._backward(images, labels)
                continue
            self._backward(images, labels)
            if self.before_update is not None:
                if self.scaling is not None:
                    self.scaling.unscale(self.optimizer)
                self.before_update()
            if self.scaling is None:
                self.engine.update(self._device, self.optimizer)
            else:
                self.scaling.step(self.optimizer)
                self.optimizer.zero_grad(set_to_none=True)

    def skipped_updates(self) -> int | None:
        """Return the updates that the loss scaling asked for and that changed no weight.

        Null: nothing scales the loss. Waits for the device.
        """
        return None if self.scaling is None else self.scaling.asked - self.counter.updates

    def output(self) -> torch.Tensor | None:
        """Return the last micro-batch's loss, a scalar on the device."""
        return self._loss

    def _witnesses(self) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = (self.engine.local(parameter) for parameter in self._smallest)
        here = self._device.torch_device.type
        if all(one.numel() and one.device.type == here for one in (first, second)):
            return first, second
        # What is kept on the host can be read at once, whatever the device still has to do. A loss
        # is read in its turn, behind the update.
        if self._loss is None:
            raise RuntimeError("no micro-batch was issued, so there is nothing to read")
        return self._loss, self._loss.clone()

    def _backward(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        with self._device.autocast(self._knobs):
            loss = self.criterion(self.module(images), labels)
        every = self._knobs.gradient_accumulation
        # Dividing by one would still cost two operators, which no loop of one batch per update has.
        share = loss if every == 1 else loss / every
        self.engine.backward(share if self.scaling is None else self.scaling.scaled(share))
        self._loss = loss.detach()


class InferStep(Step):
    """One forward pass per micro-batch, without gradients."""

    def __init__(
        self, device: Device, module: torch.nn.Module, batches: Iterator[Batch], knobs: Knobs
    ) -> None:
        super().__init__(device, module, batches, knobs)
        self._output: torch.Tensor | None = None
        self._before: torch.Tensor | None = None

    def advance(self, micro_batches: int) -> None:
        """Issue so many forward passes."""
        with torch.no_grad():
            for _ in range(micro_batches):
                images, _labels = self._next()
                self._before = self._output
                with self._device.autocast(self._knobs):
                    output = self.module(images)
                self._output = self._device.keep(output)

    def output(self) -> torch.Tensor | None:
        """Return the last output, of shape [batch, classes]."""
        return self._output

    def _witnesses(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._output is None:
            raise RuntimeError("no forward pass was issued, so there is nothing to read")
        return self._output, self._output if self._before is None else self._before


class MovedParameters:
    """Remembers a sample of every trainable parameter, and tells how many tensors moved since.

    Args:
        module: The model as it will be trained.
        names: Its parameters to look at: those that were trainable when the model was built, so
            that what is frozen later counts as not moved. Null: those that are trainable now.
        engine: Who drives it. Every rank of one that shards the model must look at once.
    """

    _SAMPLE = 256

    def __init__(
        self,
        module: torch.nn.Module,
        names: Collection[str] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._module = module
        self._engine = PlainEngine() if engine is None else engine
        self._names = trainable_parameters(module) if names is None else frozenset(names)
        self._before = self._sample()

    def share(self) -> float:
        """Return the share of these tensors that differ from the first sample."""
        after = self._sample()
        moved = sum(not torch.equal(a, b) for a, b in zip(self._before, after, strict=True))
        return moved / len(after) if after else 0.0

    def digest(self) -> str:
        """Return a digest of the sample as it is now: equal where the weights are."""
        found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for sample in self._sample():
            found.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def untrained(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Return the names of these that are frozen now, or that the optimizer does not hold."""
        held = self._engine.updated(optimizer)
        trained = {n for n, p in self._module.named_parameters() if p.requires_grad and p in held}
        return sorted(self._names - trained)

    def _sample(self) -> list[torch.Tensor]:
        samples = []
        for name, parameter in self._module.named_parameters():
            if name in self._names:
                flat = self._engine.whole(parameter).cpu().flatten()
                samples.append(flat[:: max(1, len(flat) // self._SAMPLE)].clone())
        return samples


def trainable_parameters(module: torch.nn.Module) -> frozenset[str]:
    """Return the names of the parameters that training is to change."""
    return frozenset(name for name, p in module.named_parameters() if p.requires_grad)


def floating_type(module: torch.nn.Module) -> torch.dtype:
    """Return the type into which a step turns the images for this module."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def _smallest_parameters(
    module: torch.nn.Module, engine: Engine
) -> tuple[torch.Tensor, torch.Tensor]:
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise BadCase("the model has no parameter to train: use task=infer")
    # A rank may hold nothing of a small one that is sharded.
    held = [p for p in trainable if engine.local(p).numel()] or trainable
    ordered = sorted(held, key=lambda p: engine.local(p).numel())
    return ordered[0], ordered[min(1, len(ordered) - 1)]
