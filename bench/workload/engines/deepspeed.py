"""DeepSpeed's ZeRO, driven directly, with torch's own optimizer and no compiler.

DeepSpeed builds its kernels when they are first used, by a compiler that may not be there. None is
needed: the optimizer is the one that every engine has (`zero_force_ds_cpu_optimizer` is off), and
the shared-memory collectives of a CPU are told to be incompatible, so that gloo is used. What
DeepSpeed would decide by itself is written out (`bench.backends.zero_config`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends import async_io, drives, users_files, zero_config
from bench.backends.base import Device, Unsupported, World
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import AUTOCAST, Knobs, ZeroKnobs
from bench.workload.engines import kept_in_files, locked_buffers, sharded, zero_actual
from bench.workload.engines.base import Engine, MakeOptimizer, NotWithoutExchange, Prepared
from bench.workload.errors import BadCase

_SHARED_MEMORY = "deepspeed_shm_comm"


class DeepspeedEngine(Engine):
    """ZeRO over an initialised default process group.

    Args:
        knobs: Of the case.
        world: This process's place.
        device: Whether its memory is another than the host's decides if what is offloaded is
            page-locked.
        folder: Of the launch, for temporary files; needed where something is kept in files.

    Raises:
        BadCase: the user's own configuration cannot be read, or contradicts the case.
        Unsupported: the folder for files cannot hold what is to leave memory.
    """

    def __init__(
        self, knobs: Knobs, world: World, device: Device, folder: Path | None = None
    ) -> None:
        self._knobs = knobs.zero
        self._configuration = _configuration(
            knobs, page_locked=device.own_memory is True, swap_folder=_swap_folder(knobs, folder)
        )
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
            self._prepare_files(module)
            if self._knobs.offload_param == "nvme":
                # By itself it would have files of bfloat16 where the device has no float16. That
                # the ranks have met it would be told too late.
                deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
                deepspeed.zero.Init(module=module, config_dict_or_path=self._configuration)
                kept_in_files.read_once(module)
            self._engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=self._configuration
            )
        kept_in_files.refuse_what_is_too_small(self._engine.optimizer)
        # ZeRO calls it for each of its groups, and hands it their gradients only then.
        self.calls_per_update = len(self._groups() or [None])
        self.shows_gradients = not self._engine.zero_optimization()
        self.shards_updates = self._engine.zero_optimization()
        return self._engine, optimizer

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Have DeepSpeed count the micro-batch: it knows by itself which is the last."""
        yield
        self._engine.step()

    @contextlib.contextmanager
    def unexchanged(self) -> Iterator[None]:
        """Keep gradients to this rank, where nothing is shared out.

        DeepSpeed's own no_sync forbids updates, so that it cannot be had for whole steps.
        """
        if self._engine.zero_optimization():
            raise NotWithoutExchange("what ZeRO has shared out must be exchanged for an update")
        kept = self._engine.enable_backward_allreduce
        self._engine.enable_backward_allreduce = False
        try:
            yield
        finally:
            self._engine.enable_backward_allreduce = kept

    def backward(self, loss: torch.Tensor) -> None:
        """Go backward through DeepSpeed; the loss is the micro-batch's share already."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def update(self, device: Device, optimizer: torch.optim.Optimizer) -> None:
        """Have DeepSpeed update, and forget its gradients."""
        self._engine.step()

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a parameter that stage 3 leaves to this rank."""
        part = getattr(tensor, "ds_tensor", None)
        if part is None or tensor.numel() or kept_in_files.is_in_file(tensor):
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
            "deepspeed_autocast": AUTOCAST.get(knobs.precision, "none"),
            "gradient_average": True,
            "gradient_clipping": 0.0,
            "communication_data_type": "float32",
        }

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read back what DeepSpeed has made of the configuration, from the optimizer it built."""
        import deepspeed

        engine = self._engine
        made = isinstance(engine, deepspeed.DeepSpeedEngine)
        found: dict[str, JsonValue] = {"engine": "deepspeed" if made else "plain"}
        if not made:
            return found | {"processes": torch.distributed.get_world_size()}
        found |= kept_in_files.describe(engine.optimizer)
        cast = str(engine.torch_autocast_dtype()).removeprefix("torch.")
        return found | {
            "processes": engine.dp_world_size,
            "zero.stage": zero_actual.stage(engine.optimizer),
            "zero.offload_optimizer": zero_actual.offload_optimizer(
                engine.optimizer, self._device.own_memory
            ),
            "zero.offload_param": zero_actual.offload_param(engine.optimizer),
            "zero.optimizer": type(engine.optimizer).__name__,
            "deepspeed_autocast": cast if engine.torch_autocast_enabled() else "none",
            "gradient_average": zero_actual.averages(engine),
            "gradient_clipping": zero_actual.clipping(engine),
            "communication_data_type": zero_actual.exchanged_in(engine),
            "zero.computes_gradient_norm": zero_actual.computes_norm(engine.optimizer),
            "deepspeed_config": _shown(self._configuration),
        }

    def _groups(self) -> list[Any] | None:
        """Return the parameters as ZeRO groups them; null: stage 0, which does not."""
        zero = self._engine.optimizer
        groups = getattr(zero, "bit16_groups", None) or getattr(zero, "fp16_groups", None)
        return list(groups) if groups else None

    def _prepare_files(self, module: torch.nn.Module) -> None:
        """Have what writes files built or loaded, where its buffers can be had."""
        if not self._knobs.uses_nvme:
            return
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        locked_buffers.refuse_what_cannot_be_locked(
            self._configuration["zero_optimization"], weights, self._world.size
        )
        if reason := async_io.load(self._device.torch_device.type):
            reason = f"DeepSpeed's async_io, which writes the files, cannot be used here: {reason}"
            raise Unsupported(_in_files(self._knobs), "nvme", reason)


def imported(device_type: str) -> Any:
    """Return the library, told which device it is for, and to build no kernel of its own."""
    os.environ["DS_ACCELERATOR"] = device_type
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__[_SHARED_MEMORY] = False
    return deepspeed


def _configuration(knobs: Knobs, *, page_locked: bool, swap_folder: Path | None) -> dict[str, Any]:
    """Return the configuration of a case, with what the user's file says now."""
    path = users_files.named(knobs).get("zero.config")
    try:
        users = {} if path is None else users_files.read("zero.config", path)
        return zero_config.configuration(
            knobs,
            users,
            f"zero.config={path}",
            page_locked=page_locked,
            swap_folder=swap_folder,
        )
    except ScenarioError as error:
        raise BadCase(str(error)) from error


def _swap_folder(knobs: Knobs, folder: Path | None) -> Path | None:
    """Make the folder in which tensors are kept, and return it; null: none are."""
    if not knobs.zero.uses_nvme:
        return None
    if folder is None:
        raise ValueError("a launch that keeps tensors in files has a folder")
    found = drives.swap_folder(folder, knobs.zero.nvme_path)
    found.mkdir(parents=True, exist_ok=True)
    if reason := drives.unusable(found):
        remedy = "name a folder on a drive with zero.nvme_path"
        raise Unsupported(_in_files(knobs.zero), "nvme", f"{reason}: {remedy}")
    return found


def _shown(configuration: dict[str, Any]) -> dict[str, JsonValue]:
    """Return the configuration without the launch's own folder, which is gone when it is read."""
    shown: dict[str, Any] = json.loads(json.dumps(configuration))
    for section in shown["zero_optimization"].values():
        if isinstance(section, dict):
            section.pop("nvme_path", None)
    return shown


def _in_files(knobs: ZeroKnobs) -> str:
    """Return the name of a knob that keeps something in files."""
    return f"zero.offload_{'optimizer' if knobs.offload_optimizer == 'nvme' else 'param'}"
