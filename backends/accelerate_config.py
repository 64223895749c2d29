"""A configuration of accelerate's own, as `accelerate config` writes it: what of it acts here.

The ranks run already, so what concerns accelerate's launcher is not read. What says otherwise than
a knob is refused by name, as is what a knob says here. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import AUTOCAST, Knobs

_OF_THE_LAUNCHER = (
    "compute_environment",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "main_training_function",
    "rdzv_backend",
    "same_network",
)
_READ = ("distributed_type", "mixed_precision", "num_machines", "num_processes", "use_cpu")
_OFF: tuple[object, ...] = (None, False, "", "no", "NO", "false", {}, [])
"""Values that switch nothing on, whatever the key."""
_UNSAID: Mapping[str, object] = {"gpu_ids": "all", "num_processes": -1}
"""Values by which accelerate leaves it open."""
ALONE = "NO"
"""The `distributed_type` of one process, whose model is not wrapped."""
_BACKENDS = {"MULTI_CPU": "cpu", "MULTI_GPU": "cuda"}
"""Where DistributedDataParallel goes by another name, the backends of these names."""
_WORDS = {"bfloat16": "bf16", "float16": "fp16"}
_DIRECTLY = {
    "DEEPSPEED": "set engine=deepspeed, which drives that directly, and leave the file out",
    "FSDP": "set engine=fsdp, which drives torch's FSDP2 directly, and leave the file out",
}
_INSTEAD = {
    "downcast_bf16": "set precision",
    "dynamo_config": "set compile and compile_mode",
    "enable_cpu_affinity": "remove it: ranks that compute on the host are kept on CPUs of theirs",
    "fp8_config": "set precision=fp8-tensorwise or fp8-rowwise",
    "gpu_ids": "set CUDA_VISIBLE_DEVICES in the environment",
}
"""What to do about a key that is not honoured, where removing it is not all."""


def mixed_precision(knobs: Knobs) -> str:
    """Return what accelerate calls the autocast of a case."""
    return _WORDS.get(AUTOCAST.get(knobs.precision, ""), "no")


def acting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says beside its launcher's part, without what it leaves open."""
    says = {
        key: value
        for key, value in config.items()
        if key not in _OF_THE_LAUNCHER and not _among(value, (*_OFF, _UNSAID.get(key)))
    }
    for key, negated in (("distributed_type", ALONE), ("mixed_precision", "no")):
        if config.get(key) is not None:
            # YAML reads a bare no as false.
            says[key] = str(config[key] or negated)
    return says


def check(config: Mapping[str, Any], knobs: Knobs, backend: str, place: str) -> None:
    """See to it that a configuration says nothing else than the case.

    Args:
        config: As it stands in the file.
        knobs: Of the case.
        backend: Name of the one that the case is for.
        place: Which file this is, for messages.

    Raises:
        ScenarioError: a key contradicts a knob or the backend, or nobody honours it.
    """
    says = acting(config)
    kind = says.get("distributed_type", ALONE)
    if kind not in (ALONE, *_BACKENDS):
        remedy = _DIRECTLY.get(kind, "set engine=ddp, fsdp or deepspeed, and leave the file out")
        raise ScenarioError(place, f"distributed_type={kind} is not driven", remedy)
    for key in says:
        if key not in _READ:
            remedy = _INSTEAD.get(key, "remove it")
            raise ScenarioError(place, f"{key}={says[key]} is not honoured", remedy)
    for key, setting, expected in _contradictions(says, knobs, backend):
        means = "" if expected is None else f", for which it is {expected}"
        message = f"{key}={says[key]} contradicts {setting}{means}"
        raise ScenarioError(place, message, f"remove {key}, or change {setting.split('=')[0]}")


def _contradictions(
    says: Mapping[str, Any], knobs: Knobs, backend: str
) -> Iterator[tuple[str, str, object]]:
    """Yield keys that contradict the case: what it sets, and what the key should say; null: open.

    Whether an adapter of somebody else's computes on the host is not known here.
    """
    expected: dict[str, tuple[str, object]] = {
        "num_processes": (f"processes={knobs.processes}", knobs.processes),
        "num_machines": (f"nodes={knobs.nodes}", knobs.nodes),
        "mixed_precision": (f"precision={knobs.precision}", mixed_precision(knobs)),
    }
    for key, (setting, value) in expected.items():
        if key in says and says[key] != value:
            yield key, setting, value
    kind = says.get("distributed_type")
    if kind == ALONE and knobs.processes > 1:
        yield "distributed_type", f"processes={knobs.processes}", None
    names = {where: name for name, where in _BACKENDS.items()}
    if backend in names and kind in _BACKENDS and kind != names[backend]:
        yield "distributed_type", f"--backend={backend}", names[backend]
    if backend in names and says.get("use_cpu") and backend != "cpu":
        yield "use_cpu", f"--backend={backend}", False


def _among(value: object, values: tuple[object, ...]) -> bool:
    """Return whether a value is one of these; 0 is not false."""
    return any(type(value) is type(other) and value == other for other in values)
