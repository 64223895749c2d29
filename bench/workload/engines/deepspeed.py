"""DeepSpeed's ZeRO, driven directly, with torch's own optimizer and no compiler.

DeepSpeed builds its kernels when they are first used, by a compiler that may not be there. None is
needed: the optimizer is the one that every engine has (`zero_force_ds_cpu_optimizer` is off), and
the shared-memory collectives of a CPU are told to be incompatible, so that gloo is used. What
DeepSpeed would decide by itself is written out (`bench.workload.engines.zero_config`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends.base import Device, World
from bench.scenarios.schema import Knobs
from bench.workload.engines import sharded, zero_config
from bench.workload.engines.base import Engine, MakeOptimizer, Prepared

_SHARED_MEMORY = "deepspeed_shm_comm"


class DeepspeedEngine(Engine):
    """ZeRO over an initialised default process group.

    Args:
        knobs: Of the case.
        world: This process's place.
        device: Whether its memory is another than the host's decides if what is offloaded is
            page-locked.

    Raises:
        BadCase: the user's own configuration cannot be read, or contradicts the case.
    """

    def __init__(self, knobs: Knobs, world: World, device: Device) -> None:
        self._configuration = zero_config.configuration(knobs, world, page_locked=device.own_memory)
        self._world = world
        self._device = device
        self._engine: Any = None

    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Hand model and optimizer to DeepSpeed, which shards as much as the stage says."""
        if make_optimizer is None:
            raise ValueError("engine=deepspeed for inference: the schema refuses this")
        # It asks which rank of the machine this is, whoever has formed the group.
        os.environ.setdefault("LOCAL_RANK", str(self._world.local_rank))
        optimizer = make_optimizer(module.parameters())
        # The output of this process may be what a user reads as JSON, and it logs to it.
        with contextlib.redirect_stdout(sys.stderr):
            deepspeed = imported(self._device.torch_device.type)
            self._engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=self._configuration
            )
        # ZeRO calls it for each of its groups, and hands it their gradients only then.
        self.calls_per_update = len(self._groups() or [None])
        self.shows_gradients = not self._engine.zero_optimization()
        return self._engine, optimizer

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Have DeepSpeed count the micro-batch: it knows by itself which is the last."""
        yield
        self._engine.step()

    def backward(self, loss: torch.Tensor) -> None:
        """Go backward through DeepSpeed; the loss is the micro-batch's share already."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def update(self, device: Device, optimizer: torch.optim.Optimizer) -> None:
        """Have DeepSpeed update, and forget its gradients."""
        self._engine.step()

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a parameter that stage 3 leaves to this rank."""
        part = getattr(tensor, "ds_tensor", None)
        if part is None or tensor.numel():
            return tensor
        return part.data  # type: ignore[no-any-return]

    def whole(self, parameter: torch.Tensor) -> torch.Tensor:
        """Gather what stage 3 has shared out."""
        if not hasattr(parameter, "ds_tensor"):
            return parameter.detach()
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def over_ranks(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add the parts of all ranks, where gradients are shared out."""
        if not self._engine.zero_optimization():
            return list(parts)
        return sharded.over_ranks(parts, self._device.torch_device.type)

    def count(self, module: torch.nn.Module) -> int:
        """Return how many numbers the parameters are, of which stage 3 shows none."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())

    def updated(self, optimizer: torch.optim.Optimizer) -> set[torch.Tensor]:
        """Return the parameters whose parts the optimizer holds in flat tensors."""
        groups = self._groups()
        if groups is None:
            return super().updated(optimizer)
        return {parameter for group in groups for parameter in group}

    def asked(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Return the settings of the group `zero`, and what DeepSpeed may substitute."""
        return super().asked(knobs) | {
            "zero.stage": knobs.zero.stage,
            "zero.offload_optimizer": knobs.zero.offload_optimizer,
            "zero.offload_param": knobs.zero.offload_param,
            "deepspeed_autocast": zero_config.AUTOCAST.get(knobs.precision, "none"),
            "gradient_clipping": 0.0,
        }

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read back what DeepSpeed has made of the configuration, from the optimizer it built."""
        import deepspeed

        engine = self._engine
        made = isinstance(engine, deepspeed.DeepSpeedEngine)
        found: dict[str, JsonValue] = {"engine": "deepspeed" if made else "plain"}
        if not made:
            return found | {"processes": torch.distributed.get_world_size()}
        cast = str(engine.torch_autocast_dtype()).removeprefix("torch.")
        return found | {
            "processes": engine.dp_world_size,
            "zero.stage": _stage(engine.optimizer),
            "zero.offload_optimizer": self._offload_optimizer(engine.optimizer),
            "zero.offload_param": _offload_param(engine.optimizer),
            "zero.optimizer": type(engine.optimizer).__name__,
            "deepspeed_autocast": cast if engine.torch_autocast_enabled() else "none",
            "gradient_clipping": _clipping(engine),
            "deepspeed_config": json.loads(json.dumps(self._configuration)),
        }

    def _groups(self) -> list[Any] | None:
        """Return the parameters as ZeRO groups them; null: stage 0, which does not."""
        zero = self._engine.optimizer
        groups = getattr(zero, "bit16_groups", None) or getattr(zero, "fp16_groups", None)
        return list(groups) if groups else None

    def _offload_optimizer(self, zero: Any) -> str | None:
        """Return where the optimizer's state is kept; null: not where ZeRO says."""
        says = getattr(zero, "cpu_offload", False) or getattr(zero, "offload_optimizer", False)
        parts = getattr(zero, "single_partition_of_fp32_groups", None)
        parts = parts or getattr(zero, "fp32_partitioned_groups_flat", None) or []
        lies_on = {part.device.type for part in parts}
        if not says:
            on_host = self._device.own_memory and lies_on == {"cpu"}
            return None if on_host else "none"
        return "cpu" if lies_on == {"cpu"} else None


def imported(device_type: str) -> Any:
    """Return the library, told which device it is for, and to build no kernel of its own."""
    os.environ["DS_ACCELERATOR"] = device_type
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__[_SHARED_MEMORY] = False
    return deepspeed


def _stage(zero: Any) -> int | None:
    """Return the stage whose optimizer this is; null: of none that is known."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if isinstance(zero, DeepSpeedZeroOptimizer_Stage3):
        return 3
    if isinstance(zero, DeepSpeedZeroOptimizer):
        return 2 if zero.partition_gradients else 1
    return 0 if type(zero).__module__.startswith("torch.optim") else None


def _offload_param(zero: Any) -> str:
    if not getattr(zero, "offload_param", False):
        return "none"
    return "nvme" if zero.params_in_nvme_and_cpu else "cpu"


def _clipping(engine: Any) -> float | None:
    """Return to what norm gradients are clipped; null: engine and optimizer do not agree."""
    said = {float(engine.gradient_clipping())}
    held = getattr(engine.optimizer, "clip_grad", None)
    if held is not None:
        said.add(float(held))
    return said.pop() if len(said) == 1 else None
