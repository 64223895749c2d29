"""What DeepSpeed has made of its configuration, read back from the engine that it has built."""

from __future__ import annotations

from typing import Any

from bench.workload.engines import kept_in_files


def stage(zero: Any) -> int | None:
    """Return the stage whose optimizer this is; null: of none that is known."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if isinstance(zero, DeepSpeedZeroOptimizer_Stage3):
        return 3
    if isinstance(zero, DeepSpeedZeroOptimizer):
        return 2 if zero.partition_gradients else 1
    return 0 if type(zero).__module__.startswith("torch.optim") else None


def offload_optimizer(zero: Any, own_memory: bool | None) -> str | None:
    """Return where the optimizer's state is kept; null: not where ZeRO says.

    Args:
        zero: DeepSpeed's optimizer.
        own_memory: Whether the device's memory is another than the host's.
    """
    if kept_in_files.has_state(zero):
        return "nvme" if kept_in_files.optimizer_state(zero).in_files else None
    says = getattr(zero, "cpu_offload", False) or getattr(zero, "offload_optimizer", False)
    parts = getattr(zero, "single_partition_of_fp32_groups", None)
    parts = parts or getattr(zero, "fp32_partitioned_groups_flat", None) or []
    lies_on = {part.device.type for part in parts}
    if not says:
        on_host = own_memory and lies_on == {"cpu"}
        return None if on_host else "none"
    return "cpu" if lies_on == {"cpu"} else None


def offload_param(zero: Any) -> str | None:
    """Return where the parts of the weights are kept; null: not where ZeRO says."""
    if not getattr(zero, "offload_param", False):
        return "none"
    if kept_in_files.has_weights(zero):
        return "nvme" if kept_in_files.weights(zero).in_files else None
    lie_on = {p.ds_tensor.device.type for group in zero.fp16_groups for p in group}
    return "cpu" if lie_on == {"cpu"} else None


def averages(engine: Any) -> bool:
    """Return whether gradients are the mean over the ranks, and not their sum."""
    said = (getattr(part, "gradient_average", True) for part in (engine, engine.optimizer))
    return all(map(bool, said))


def exchanged_in(engine: Any) -> str:
    """Return the types in which gradients are exchanged: ZeRO has a bucket for each."""
    buckets = getattr(engine.optimizer, "ipg_buckets", None)
    types = list(buckets) if isinstance(buckets, dict) else [engine.communication_data_type]
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))


def computes_norm(zero: Any) -> bool:
    """Return whether every update computes the norm of all gradients, though none is clipped."""
    return stage(zero) != 0 and bool(getattr(zero, "compute_grad_norm", True))


def clipping(engine: Any) -> float | None:
    """Return to what norm gradients are clipped; null: engine and optimizer do not agree."""
    said = {float(engine.gradient_clipping())}
    held = getattr(engine.optimizer, "clip_grad", None)
    if held is not None:
        said.add(float(held))
    return said.pop() if len(said) == 1 else None
