"""Is the work that ran the work that was asked for?"""

from __future__ import annotations

import math

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding
from bench.scenarios.schema import Knobs

_NOT_LOOKED_AT = "this launch was not looked into"
_LEAST_DEVIATION = 1e-6
"""Images are normalised to about 1; what is constant but for rounding stays far below this."""
_FEW_SAMPLES = 4
"""Of so many images drawn with replacement, the same ones may come twice by chance."""
_NAMED = 3
_TOUCHED = 1e-4
"""Two norms of the same gradients differ by the rounding of float32 at most."""


def batch_as_asked(evidence: Evidence) -> Finding:
    """Every batch that ran had the size that was asked for."""
    knobs = evidence.knobs
    asked, devices = knobs.process_batch, knobs.devices_per_process
    sizes = ", ".join(str(size) for size in sorted(evidence.batch_sizes)) or "none"
    of_each = f" ({knobs.batch_size} on each of {devices} devices)" if devices > 1 else ""
    text = f"batch sizes seen: {sizes}; asked {asked}{of_each}; {evidence.samples} samples"
    right = evidence.batch_sizes == {asked} and evidence.samples == asked * evidence.micro_batches
    return (PASS if right else FAIL), text


def batches_as_asked(evidence: Evidence) -> Finding:
    """The model was given images that differ from one another, and as many as the source promises.

    Inputs that are constant, or one batch used again and again, let a compiler and a cache take
    short cuts, and a device loader sends one object once however often it is handed over. Some
    batches are drawn after the windows and compared byte by byte: `random` and augmented images
    never repeat, and of `cached` and `device` every batch of the pool must turn up.
    """
    found = evidence.inspection
    if found is None or found.batches_seen is None or found.batches_distinct is None:
        return NA, _NOT_LOOKED_AT
    deviation = math.nan if found.input_deviation is None else found.input_deviation
    least, promise = _least_distinct(evidence.knobs, found.batches_seen)
    text = (
        f"{found.batches_distinct} different {_batches(found.batches_distinct)} among "
        f"{found.batches_seen} ({promise}), "
        f"standard deviation of the pixels {deviation:.3g}"
    )
    right = found.batches_distinct >= least and deviation > _LEAST_DEVIATION
    return (PASS if right else FAIL), text


def gradients_untouched(evidence: Evidence) -> Finding:
    """The optimizer was given the gradients that the backward pass left.

    Some libraries clip gradients unless they are told not to, and no scenario asks for it. It is
    other training, and it costs time. The norms of both are compared over some steps after the
    windows, in which gradients are made large: no bound shows on small ones.
    """
    found = evidence.inspection
    if found is None:
        return NA, _NOT_LOOKED_AT
    if found.gradient_kept is None:
        why = [reason for reason in found.skipped if reason.startswith("gradients: ")]
        return NA, why[0] if why else "gradients: not looked at"
    text = f"norm given to the optimizer / norm after backward: {found.gradient_kept:.6g}"
    return (PASS if abs(found.gradient_kept - 1) <= _TOUCHED else FAIL), text


def as_asked(evidence: Evidence) -> Finding:
    """What ran is what was asked for: engine, world, precision, compilation, optimizer and more.

    Libraries substitute silently. Every setting that can be read back from what runs is compared.
    """
    wrong = [
        f"{name}: asked {wanted}, ran {evidence.actual.get(name)}"
        for name, wanted in evidence.asked.items()
        if evidence.actual.get(name) != wanted
    ]
    if wrong:
        return FAIL, "; ".join(wrong)
    return PASS, f"{len(evidence.asked)} settings read back: {', '.join(evidence.asked)}"


def compiled_whole(evidence: Evidence) -> Finding:
    """torch.compile compiled the model as a whole, in the mode that was asked for.

    Where it meets something that it cannot trace, it compiles the parts before and after and runs
    the rest in Python; where it cannot record a CUDA graph, it runs without. Neither is an error:
    the number is right, and belongs to a program that is compiled in part. (Compiling anew is told
    as well: inside a window it voids the window.)
    """
    if evidence.knobs.compile == "none":
        return NA, "nothing is compiled"
    if evidence.graph_breaks is None:
        return NA, "this compiler's breaks are not counted"
    found = [f"{reason} ({count})" for reason, count in evidence.graph_breaks.items()]
    told = [f"gave back to Python: {', '.join(found[:_NAMED])}"] if found else []
    if evidence.graphs_skipped:
        told.append(f"CUDA graphs that were not made: {evidence.graphs_skipped}")
    again = f"compiled anew for other shapes or settings: {evidence.recompiles or 0}"
    return (FAIL if told else PASS), "; ".join([*(told or ["no graph break"]), again])


def collectives_real(evidence: Evidence) -> Finding:
    """The ranks form one world, and an all-reduce adds over them, or over the devices of one."""
    if evidence.knobs.devices == 1:
        return NA, "one process"
    if evidence.collectives is None:
        return FAIL, "several processes or devices, and no all-reduce probe"
    return PASS, evidence.collectives


def _least_distinct(knobs: Knobs, seen: int) -> tuple[int, str]:
    """Return how many of the batches seen must differ, and why, in words."""
    data = knobs.data
    if data.source in ("cached", "device"):
        # Each worker has the pool to itself, and they take turns.
        least = min(data.pool or seen, math.ceil(seen / max(1, data.workers)))
        workers = f" in each of {data.workers} workers" if data.workers > 1 else ""
        return least, f"a pool of {data.pool}{workers}"
    if data.source == "random" or knobs.task == "train":
        return seen, "none may repeat"
    if knobs.batch_size < _FEW_SAMPLES:
        return 1, "few images, drawn with replacement"
    return math.ceil(seen / 2), "images drawn with replacement"


def _batches(count: int) -> str:
    return "batch" if count == 1 else "batches"
