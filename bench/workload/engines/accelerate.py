"""Hugging Face's accelerate: what it makes of the model by itself, or by a configuration of yours.

By itself it wraps the model in DistributedDataParallel. A configuration, as `accelerate config`
writes it, may ask for FSDP2. What concerns accelerate's own launcher is not read, since the ranks
run already; what contradicts a knob is refused, and so is every key that nobody here honours.

accelerate substitutes silently: FSDP becomes DDP on a CPU, and fp16 becomes fp32. So what it has
made is read back from the module, and not from what it was told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import JsonValue

from bench.backends.base import Device, World
from bench.scenarios.schema import FLOAT8, Knobs
from bench.workload.engines import sharded
from bench.workload.engines.base import Engine, MakeOptimizer, Prepared
from bench.workload.errors import BadCase

_MIXED = {"amp-bf16": "bf16"} | dict.fromkeys(FLOAT8, "bf16")
"""What accelerate casts to, by precision."""
_OF_THE_LAUNCHER = (
    "compute_environment",
    "debug",
    "enable_cpu_affinity",
    "gpu_ids",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "main_training_function",
    "num_machines",
    "rdzv_backend",
    "same_network",
    "use_cpu",
)
_HONOURED = ("distributed_type", "fsdp_config", "mixed_precision", "num_processes")
_OFF: tuple[object, ...] = (None, False, "no", "NO", "false", {})
"""Values that switch nothing on, whatever the key."""
_REPLICATED = ("NO", "MULTI_CPU", "MULTI_GPU")
_FSDP = "FSDP"
_FSDP_VARIABLES = {
    "fsdp_auto_wrap_policy": "FSDP_AUTO_WRAP_POLICY",
    "fsdp_min_num_params": "FSDP_MIN_NUM_PARAMS",
    "fsdp_offload_params": "FSDP_OFFLOAD_PARAMS",
    "fsdp_reshard_after_forward": "FSDP_RESHARD_AFTER_FORWARD",
    "fsdp_state_dict_type": "FSDP_STATE_DICT_TYPE",
    "fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP",
    "fsdp_version": "FSDP_VERSION",
}
"""Keys of `fsdp_config` that are honoured, by the variable in which accelerate reads each."""
_VARIABLES = ("ACCELERATE_", "FSDP_")


class AccelerateEngine(Engine):
    """An Accelerator over an initialised default process group.

    Args:
        knobs: Of the case.
        world: This process's place.
        device: Whether it is the host decides what accelerate is told to run on.

    Raises:
        BadCase: the configuration says what a knob says otherwise, or what is not honoured.
    """

    def __init__(self, knobs: Knobs, world: World, device: Device) -> None:
        self._mixed = _MIXED.get(knobs.precision, "no")
        self._variables = variables_of(configured(knobs), knobs)
        self._world = world
        self._device = device
        self._accelerator: Any = None
        self._optimizer: Any = None
        self._module: Any = None

    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Hand model and optimizer to a new Accelerator."""
        for name in list(os.environ):
            if name.startswith(_VARIABLES):
                del os.environ[name]  # the case decides, and not what a shell has set
        # With torch_xla installed it would use that, even where it is told to use the CPU.
        os.environ.update(self._variables, USE_TORCH_XLA="0")
        self._announce_the_place()
        from accelerate import Accelerator

        self._accelerator = Accelerator(
            mixed_precision=self._mixed, cpu=not self._device.own_memory
        )
        if make_optimizer is None:
            self._module = self._accelerator.prepare(module)
            return self._module, None
        optimizer = make_optimizer(module.parameters())
        self._module, self._optimizer = self._accelerator.prepare(module, optimizer)
        return self._module, optimizer

    def accumulate(self) -> contextlib.AbstractContextManager[object]:
        """Return accelerate's no_sync: gradients stay local until the last micro-batch."""
        context: contextlib.AbstractContextManager[object]
        context = self._accelerator.no_sync(self._module)
        return context

    def backward(self, loss: torch.Tensor) -> None:
        """Go backward through accelerate."""
        self._accelerator.backward(loss)

    def update(self, device: Device, optimizer: torch.optim.Optimizer) -> None:
        """Apply one update by accelerate's own optimizer, and forget its gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad()

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this rank's shard, where it is sharded."""
        return sharded.local(tensor)

    def whole(self, parameter: torch.Tensor) -> torch.Tensor:
        """Gather all shards, where there are any."""
        return sharded.whole(parameter)

    def over_ranks(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add the parts of all ranks, where gradients are sharded."""
        if self._wrapper() != "fsdp":
            return list(parts)
        return sharded.over_ranks(parts, self._device.torch_device.type)

    def asked(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Return what accelerate may substitute, beside engine and world."""
        kind = configured(knobs).get("distributed_type")
        return super().asked(knobs) | {
            "accelerate.wrapper": "fsdp" if kind == _FSDP else "ddp",
            "accelerate.mixed_precision": _MIXED.get(knobs.precision, "no"),
        }

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read back what the Accelerator has made of model and precision."""
        accelerator = self._accelerator
        model = getattr(self._module, "module", self._module)
        if accelerator is None or model not in accelerator._models:
            return {"engine": "plain", "processes": torch.distributed.get_world_size()}
        return {
            "engine": "accelerate",
            "processes": accelerator.num_processes,
            "accelerate.distributed_type": str(accelerator.distributed_type.value),
            "accelerate.wrapper": self._wrapper(),
            "accelerate.mixed_precision": (
                accelerator.mixed_precision if accelerator.native_amp else "no"
            ),
        }

    def _announce_the_place(self) -> None:
        """Say in the environment where this rank stands: accelerate looks there, and joins nobody.

        The group is formed already, so that the address is one that nobody goes to. Where nothing
        is said of threads, accelerate chooses how many.
        """
        world = self._world
        place = {
            "RANK": world.rank,
            "WORLD_SIZE": world.size,
            "LOCAL_RANK": world.local_rank,
            "LOCAL_WORLD_SIZE": world.local_size,
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": torch.get_num_threads(),
        }
        for name, value in place.items():
            os.environ.setdefault(name, str(value))

    def _wrapper(self) -> str:
        from torch.distributed.fsdp import FSDPModule

        if isinstance(self._module, torch.nn.parallel.DistributedDataParallel):
            return "ddp"
        return "fsdp" if isinstance(self._module, FSDPModule) else "none"


def configured(knobs: Knobs) -> Mapping[str, Any]:
    """Return the user's configuration as it stands in the file; empty: there is none.

    Raises:
        BadCase: it cannot be read, or is no mapping.
    """
    if knobs.accelerate.config is None:
        return {}
    path = Path(knobs.accelerate.config).expanduser()
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadCase(f"accelerate.config={path}: it cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadCase(f"accelerate.config={path}: it holds no keys and values")
    return found


def variables_of(config: Mapping[str, Any], knobs: Knobs) -> dict[str, str]:
    """Return the variables in which accelerate reads what a configuration asks for.

    Raises:
        BadCase: a key contradicts a knob, or nobody honours it.
    """
    place = f"accelerate.config={knobs.accelerate.config}"
    kind = str(config.get("distributed_type") or "NO")
    _refuse_contradictions(config, knobs, place)
    if kind not in (*_REPLICATED, _FSDP):
        remedy = "; engine=deepspeed drives that directly" if kind == "DEEPSPEED" else ""
        raise BadCase(f"{place}: distributed_type={kind} is not honoured{remedy}")
    idle = {key for key, value in config.items() if value in _OFF}
    if unknown := sorted(set(config) - {*_OF_THE_LAUNCHER, *_HONOURED} - idle):
        raise BadCase(f"{place}: {unknown[0]} is not honoured: remove it")
    fsdp = dict(config.get("fsdp_config") or {})
    if kind != _FSDP:
        return {}
    if unknown := sorted(set(fsdp) - set(_FSDP_VARIABLES)):
        raise BadCase(f"{place}: fsdp_config.{unknown[0]} is not honoured: remove it")
    if fsdp.get("fsdp_version") != 2:  # noqa: PLR2004 - the name of FSDP2
        raise BadCase(f"{place}: fsdp_config.fsdp_version must be 2: FSDP1 is not driven")
    told = {_FSDP_VARIABLES[key]: str(value) for key, value in fsdp.items() if value is not None}
    return {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"} | told


def _refuse_contradictions(config: Mapping[str, Any], knobs: Knobs, place: str) -> None:
    said = {
        "num_processes": ("processes", knobs.processes, knobs.processes),
        "mixed_precision": ("precision", knobs.precision, _MIXED.get(knobs.precision, "no")),
    }
    for key, (knob, value, expected) in said.items():
        # YAML reads a bare no as false.
        found = "no" if config.get(key) is False else config.get(key)
        if found is not None and found != expected:
            raise BadCase(
                f"{place}: {key}={found} contradicts {knob}={value}, for which it is {expected}: "
                f"remove {key}, or change {knob}"
            )
