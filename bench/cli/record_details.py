"""The figures of a record's page, as names and what they are: used, launches, software.

This module reads records and rows; how the pairs are laid out is the page's.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.results.record import Clocks, Diagnostics, Inspection, Launch, Noise, Record
from bench.results.row import Row
from bench.results.usage import energy_per_sample, model_flops_utilisation, scaled
from bench.results.wording import binary, cost, energy, figure, loader_wait, memory, utilisation

Pairs = Iterator[tuple[str, str]]


def used_lines(record: Record, row: Row, *, priced: bool) -> Pairs:
    """Yield what the number used; what is unknown says why.

    Args:
        record: With a number.
        row: Its row.
        priced: A price file was given.
    """
    host = row.host_peak_rss_bytes
    # Where the host is the device, its count is the system's, and this one is missing with it.
    unkept = "the device's runtime keeps no count"
    if host is None:
        unkept += ", or the system does not let it begin anew after the warm-up"
    yield "device memory", memory(row) or f"unknown: {unkept}"
    if host is not None:
        yield "host memory", f"{binary(host)} of a training process, at most"
    joules = energy_per_sample(record.launches)
    known = f"{energy(row)} J a sample ({joules.source})"
    yield "energy", known if joules.value is not None else f"unknown: {joules.reason}"
    if row.flops_per_sample is not None:
        passes = "forward and backward" if record.requested.knobs.task == "train" else "forward"
        yield "FLOPs", f"{scaled(row.flops_per_sample)}FLOP a sample, {passes}"
    mfu = model_flops_utilisation(record)
    known = f"{utilisation(row)} of {mfu.source}"
    yield "MFU", known if mfu.value is not None else f"unknown: {mfu.reason}"
    if cost(row):
        yield "cost", f"{cost(row)} a million samples: {row.cost_source}"
    elif priced:
        yield "cost", "unknown: the price file has no price for this device and backend"
    else:
        yield "cost", "unknown: give a price file with --prices"
    if loader_wait(row):
        yield "loader", f"{loader_wait(row)} of the time waiting for batches"


def launch_lines(launch: Launch) -> Pairs:
    """Yield what happened in a launch, in order."""
    yield "value", f"{figure(launch.samples_per_s)} samples/s"
    cache = "no" if launch.compilation.cache == "none" else f"a {launch.compilation.cache}"
    turns = ", in turns with a launch of the other side" if launch.in_turns else ""
    if launch.cpus is not None:
        turns += f", both on CPU {', '.join(map(str, launch.cpus))}"
    yield "place", f"round {launch.round}, seed {launch.seed}, {cache} compile cache{turns}"
    seconds = launch.phases.model_dump()
    yield (
        "phases",
        ", ".join(
            f"{name.removesuffix('_s').replace('_', ' ')} {value:.2f} s"
            for name, value in seconds.items()
            if value is not None
        ),
    )
    yield "warm-up", _warm_up(launch)
    for rank, times in enumerate(launch.window_s):
        shown = " ".join(f"{1e3 * t:.0f}" for t in times)
        yield "windows", f"rank {rank}, of {_count(launch.steps_per_window, 'step')}, ms: {shown}"
    if (slowest := launch.straggler) is not None:
        yield (
            "ranks",
            f"rank {slowest.rank} takes longest, {slowest.share:.1%} more than the mean (from "
            f"{slowest.source})",
        )
    if launch.memory_window_bytes:
        held = [binary(count) for count in launch.memory_window_bytes]
        yield "memory", f"{held[0]} after the first window, {held[-1]} after the last"
    if launch.clocks is not None:
        yield "clocks", _clocks(launch.clocks)
    yield from (("machine", text) for text in _noise(launch.noise))
    if launch.diagnostics is not None:
        yield from (("diagnosis", text) for text in _diagnosis(launch.diagnostics))
    if launch.inspection is not None:
        yield from (("inspection", text) for text in _inspection(launch.inspection))
    if launch.actual:
        yield "what ran", ", ".join(f"{name}={value}" for name, value in launch.actual.items())


def software_lines(record: Record) -> Pairs:
    """Yield versions, flags and the machine."""
    environment = record.environment
    versions = {"accelbench": record.tool_version, **environment.versions}
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    known = {
        "OS": environment.os,
        "kernel": environment.kernel,
        "machine": environment.machine,
        "CPU": environment.cpu_model,
        "CPUs": environment.cpus_visible,
        "governor": environment.governor,
        "commit": environment.git_commit,
    }
    yield "machine", ", ".join(f"{name} {value}" for name, value in known.items() if value)
    if environment.flags:
        yield "flags", " ".join(f"{name}={value}" for name, value in environment.flags.items())
    if record.precompiled is not None:
        found = record.precompiled
        compiled = _count(found.compiles, "compilation")
        yield "precompiled", f"{compiled} before the first launch, in {found.seconds:.1f} s"
    yield "session", f"{record.session}, measurement method {record.measurement}"


def _warm_up(launch: Launch) -> str:
    parts = [_count(launch.warm_up_steps, "step")]
    if not launch.steady:
        parts.append("its cap came before a steady state")
    if launch.dropped_windows:
        parts.append(f"{_count(launch.dropped_windows, 'leading window')} counted as warm-up")
    if launch.voided_windows:
        parts.append(f"{_count(launch.voided_windows, 'window')} voided by a compilation")
    if launch.compilation.count:
        spent = launch.compilation.seconds
        took = "" if spent is None else f" that took {spent:.1f} s"
        parts.append(f"{_count(launch.compilation.count, 'compilation')}{took}")
    return ", ".join(parts)


def _count(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number} {word}s"


def _clocks(clocks: Clocks) -> str:
    known = []
    if clocks.mhz_min is not None and clocks.mhz_max is not None:
        known.append(f"{clocks.mhz_min:.0f} to {clocks.mhz_max:.0f} MHz ({clocks.source})")
    elif clocks.source is not None:
        known.append(f"rates unknown ({clocks.source})")
    if clocks.calculation_us_min is not None and clocks.calculation_us_max is not None:
        known.append(
            f"a fixed calculation took {clocks.calculation_us_min:.0f} to "
            f"{clocks.calculation_us_max:.0f} us"
        )
    if clocks.throttled:
        known.append(f"held back by {', '.join(clocks.throttled)}")
    return "; ".join(known)


def _noise(noise: Noise) -> Iterator[str]:
    shares = (
        (noise.co_tenant_share, "of the processors used by others"),
        (noise.steal_share, "taken by the hypervisor"),
        (noise.throttled_share, "of the time stopped by a CPU quota"),
    )
    if known := ", ".join(f"{share:.1%} {what}" for share, what in shares if share is not None):
        yield known
    yield from noise.reasons


def _diagnosis(found: Diagnostics) -> Iterator[str]:
    if found.loader_wait_share is not None:
        yield f"{found.loader_wait_share:.1%} of the time waiting for the loader"
    if found.device_twin_samples_per_s is not None:
        yield f"{figure(found.device_twin_samples_per_s)} samples/s with batches on the device"
    if found.doubling_ratio is not None:
        yield f"twice the work takes {found.doubling_ratio:.2f} times as long"
    if found.communication_share is not None:
        pairs = ", ".join(f"{share:.1%}" for share in found.communication_shares)
        share = found.communication_share
        told = f"{share:.1%} of a step is exchange between ranks that nothing hides"
        if share <= 0:
            told = "what the ranks exchange adds less to a step than blocks of steps scatter"
        yield f"{told} (pairs: {pairs})"
    if found.alone_s:
        times = " ".join(f"{1e3 * seconds:.0f}" for seconds in found.alone_s)
        yield f"a block without that exchange, by rank, ms: {times}"
    if found.latency is not None:
        percentiles = found.latency.model_dump(exclude_none=True, exclude={"steps"})
        known = ", ".join(f"{k.removesuffix('_ms')} {v:.2f} ms" for k, v in percentiles.items())
        yield f"latency over {found.latency.steps} fenced steps: {known or 'too few for any'}"
    if (own := found.device_steps) is not None:
        percentiles = own.model_dump(include={"p50_ms", "p95_ms", "p99_ms"}, exclude_none=True)
        known = ", ".join(f"{k.removesuffix('_ms')} {v:.3f} ms" for k, v in percentiles.items())
        yield (
            f"{own.steps} steps by the device's own clock: {known or 'too few for a percentile'}; "
            f"{own.sum_s / own.host_s:.1%} of the host's time"
        )
    yield from found.skipped


def _inspection(found: Inspection) -> Iterator[str]:
    if found.matmul_types is not None:
        types = ", ".join(f"{count} in {name}" for name, count in found.matmul_types.items())
        yield f"products and convolutions of a period: {types} ({found.matmul_source})"
    if found.attention:
        kernels = ", ".join(f"{name} ({count})" for name, count in found.attention.items())
        yield f"attention of a period in fused kernels: {kernels}"
    if found.matmul_error is not None:
        yield (
            f"a product of fp32 matrices under the same flags is off by {found.matmul_error:.1e}, "
            f"as in {found.matmul_format or 'no known format'}"
        )
    if found.batches_seen is not None:
        yield f"{found.batches_distinct} of {found.batches_seen} batches were distinct"
    if found.input_deviation is not None:
        yield f"the pixels that the model was given deviate by {figure(found.input_deviation)}"
    if found.gradient_kept is not None:
        yield f"the optimizer was given {found.gradient_kept:.1%} of the gradients' norm"
    yield from found.skipped
