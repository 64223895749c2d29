"""What one run left behind: the versioned record, and a number that others published.

This module knows the shape of a result and nothing about how it is measured, stored or shown.
Unknown is null, never 0. Units stand in the field's name.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from bench.scenarios.schema import Case, Strict

RECORD_SCHEMA_VERSION: Final = 1
MEASUREMENT_VERSION = 5
"""Raised whenever the method of measuring changes, so that old numbers are not taken for new."""

_DERIVED_SINCE = 2
"""The first method whose number is the one that a record's windows give."""
_ROUNDING = 1e-9
_UTC = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[+]00:00)$"


def moment(written: str) -> dt.datetime:
    """Return the moment that a record writes as text, in UTC.

    Raises:
        ValueError: it is no date and time of day in UTC.
    """
    if not re.fullmatch(_UTC, written):
        raise ValueError("not a time in UTC, as in 2026-11-20T08:00:00+00:00")
    return dt.datetime.fromisoformat(written)


def _a_moment(written: str) -> str:
    moment(written)
    return written


UtcTime = Annotated[
    str,
    AfterValidator(_a_moment),
    Field(json_schema_extra={"format": "date-time", "pattern": _UTC}),
]


class Outcome(enum.StrEnum):
    """How a run of a case ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    OOM = "oom"
    COMPILE_FAILED = "compile_failed"
    TIMEOUT = "timeout"
    HANG = "hang"
    NAN = "nan"
    CRASH = "crash"
    INTERRUPTED = "interrupted"


class Phase(enum.StrEnum):
    """The parts of a launch, in order; only `measure` is in the throughput."""

    PLAN = "plan"
    START = "start"
    IMPORT = "import"
    BUILD = "build"
    FIRST_STEP = "first_step"
    WARM_UP = "warm_up"
    MEASURE = "measure"
    DIAGNOSE = "diagnose"
    HEALTH = "health"
    """Of the health pass only, whose launch has no windows."""
    REPORT = "report"


class Verdict(enum.StrEnum):
    """What a number is worth."""

    MEASURED = "measured"
    NOISY = "noisy"
    SUSPECT = "suspect"
    CLAIMED = "claimed"


class CheckResult(enum.StrEnum):
    """What an audit check found."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_APPLICABLE = "not_applicable"


class Weight(enum.StrEnum):
    """What a failed check means for the row."""

    SUSPECT = "suspect"
    """The number is, or may be, wrong."""
    NOISY = "noisy"
    """The machine disturbed it."""
    REMARK = "remark"
    """The number is right, and its reader should know something about it."""


class Check(Strict):
    """One audit check of one launch."""

    name: str
    result: Annotated[CheckResult, Field(strict=False)]
    evidence: str
    """The figures the result rests on, in words."""
    weight: Annotated[Weight, Field(strict=False)] = Weight.SUSPECT


class Phases(Strict):
    """Wall time of each phase on rank 0; null where the launch did not get there. Unit: seconds."""

    import_s: float | None = None
    build_s: float | None = None
    first_step_s: float | None = None
    """Up to the first fence: tracing and compiling included."""
    warm_up_s: float | None = None
    measure_s: float | None = None
    diagnose_s: float | None = None


class Compilation(Strict):
    """Compilation outside the windows, as the backend's counters tell it."""

    count: int | None = None
    seconds: float | None = None
    cache: Literal["cold", "warm", "none"] = "none"
    """State of the run's private cache at the start; `none`: nothing on this backend reads one."""


class Noise(Strict):
    """What the rest of the machine did while the windows ran; null where it cannot be read."""

    co_tenant_share: float | None = None
    """CPU time of others / CPU time there was, over the CPUs we may use."""
    steal_share: float | None = None
    """CPU time the hypervisor took / CPU time there was."""
    throttled_share: float | None = None
    """Time for which the container's CPU quota stopped us / time; null: no quota to be read."""
    pressure_share: float | None = None
    """Share of the time in which some task waited for a CPU (PSI `some`), ours included."""
    involuntary_switches: int | None = None
    cpu_mhz_min: float | None = None
    cpu_mhz_max: float | None = None
    reasons: list[str] = []
    """Why the launch counts as noisy; empty: it does not."""


class Clocks(Strict):
    """Clock rates of the device over the windows, and what held them back; null: not to be read."""

    source: str | None
    """Of the rates and the reasons; null: neither is told."""
    mhz_min: float | None = None
    mhz_max: float | None = None
    throttled: list[str] = []
    """Reasons that the device gave for running slower than it could, each once."""
    calculation_us_min: float | None = None
    """What a fixed calculation took after a window, at least; null: the host is not the device."""
    calculation_us_max: float | None = None
    """The same, at most."""


class Energy(Strict):
    """Energy that the device used over the windows; a figure or a reason, never both null."""

    joules: float | None = None
    seconds: float | None = None
    """Time between the counter's readings before and after each window, of all windows together."""
    source: str | None = None
    """Which counter, and what it covers."""
    reason: str | None = None
    """Why there is no figure."""

    @model_validator(mode="after")
    def _a_figure_or_a_reason(self) -> Energy:
        if (self.joules is None) == (self.reason is None):
            raise ValueError("energy needs either joules or the reason why there are none")
        return self


class Peak(Strict):
    """What the device can do at most, in dense products of one type."""

    flops_per_s: float
    dtype: str
    device: str
    """The part that the figure is for."""
    source: str


class Inspection(Strict):
    """A look inside some untimed steps after the windows; null: not looked at, see `skipped`."""

    matmul_types: dict[str, int] | None = None
    """Matrix products and convolutions of one period, by the type of their operands."""
    attention: dict[str, int] = {}
    """Kernels of fused attention in the same period, by name; empty: attention was computed by
    separate products, or inside compiled code."""
    matmul_source: str | None = None
    """Where they were counted: dispatched operators, the traced graph, or the compiler's input."""
    matmul_finite: bool | None = None
    """Whether a known product came back in numbers, not NaN or infinity; null: none was made."""
    matmul_error: float | None = None
    """Relative error of a product of float32 matrices computed under the case's own flags."""
    matmul_format: str | None = None
    """The format whose rounding gives such an error: fp32, tf32, fp16, bf16 or fp8."""
    batches_seen: int | None = None
    batches_distinct: int | None = None
    input_deviation: float | None = None
    """Standard deviation of the pixels that the model was given, of the batch with the least."""
    gradient_kept: float | None = None
    """Norm of the gradients that the optimizer was given / norm that the backward pass left, both
    of gradients that were made large for it."""
    gradient_heard: float | None = None
    """Least norm of the gradients that any rank's optimizer was given while one alone had a loss:
    0 where they are not exchanged. Null: one process."""
    skipped: list[str] = []
    """What could not be looked at, and why."""


class Health(Strict):
    """Whether training still trains: some steps on one fixed batch, against fp32 with one seed."""

    steps: int
    loss_first: float | None = None
    loss_last: float | None = None
    """On the same batch, after `steps` updates."""
    reference_loss_first: float | None = None
    reference_loss_last: float | None = None
    loss_gap: float | None = None
    """Last loss - the reference's last loss. Unit: nats."""
    learned_share: float | None = None
    """Fall of the loss / fall of the reference's; 1: learns as fp32 does, 0: does not learn."""
    first_loss_expected: float | None = None
    """ln(classes): the loss of a model that knows nothing."""
    gradient_norm: float | None = None
    """Of the first step, over all parameters."""
    nonfinite_gradients: int | None = None
    """Gradient elements that were NaN or infinite, over all steps."""
    learns: bool | None = None
    """Null: it cannot be told, see `reason`."""
    reason: str | None = None
    """What is wrong with its training, or why it is unknown."""


class Latency(Strict):
    """Time of one fenced inference step. Unit: milliseconds. Null: too few steps for it."""

    steps: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class DeviceSteps(Strict):
    """Times of single steps by the device's own clock, none of which was waited for.

    A percentile is null where there are too few steps for it. Unit: milliseconds.
    """

    steps: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    sum_s: float
    """Of all of them: from the first mark on the device to the last."""
    host_s: float
    """The same steps by the host's clock, fence to fence."""


class Diagnostics(Strict):
    """The pass apart from the headline; never the source of a throughput in the table."""

    loader_wait_share: float | None = None
    """Time in the loader's next() / time of the window."""
    device_twin_samples_per_s: float | None = None
    """The same step fed from batches that lie on the device: the upper bound for any loader."""
    device_twin_gaps: list[float] = []
    """How much faster each of its blocks was than the block with the loader just before it, as a
    share."""
    doubling_ratio: float | None = None
    """T(2K periods) / T(K periods); 2 when the clock sees the work."""
    naive_samples_per_s: float | None = None
    """What a clock without fences reads over a block of steps: the mean of its per-step times."""
    naive_fenced_samples_per_s: float | None = None
    """The same steps of the same block, until the device had finished them."""
    naive_step_ms_median: float | None = None
    """Median of those per-step times. Unit: milliseconds."""
    latency: Latency | None = None
    communication_share: float | None = None
    """Time that what the ranks exchange adds to a step / time of the step, each on the slowest
    rank: what is hidden behind computing is no part of it. The same steps without the exchange
    took turns with those; below 0 it is their scatter. Null: one rank, or see `skipped`."""
    communication_shares: list[float] = []
    """Of each pair of blocks; the share is their median."""
    alone_s: list[float] = []
    """By rank: what its own block of steps without the exchange took. Unit: seconds."""
    device_steps: DeviceSteps | None = None
    """Of rank 0; null: the device keeps no time of its own, see `skipped` where it does."""
    skipped: list[str] = []
    """What of the pass does not apply or did not fit, and why."""


class Straggler(Strict):
    """The rank that takes longest for its own work."""

    rank: int
    share: float
    """Its time / the mean of all ranks - 1."""
    source: Literal["steps without exchange", "windows"]
    """`windows`: collectives make ranks wait for each other there, so that it shows little."""


class RankPlace(Strict):
    """Where one rank of a launch ran, read back in its process."""

    node: int
    """Number of its machine among those of the launch, from 0."""
    local_rank: int
    cpus: list[int]
    """Numbers of the CPUs that it could run on."""
    omp_num_threads: str | None = None
    """The variable of that name; null: it was not set."""
    shown: dict[str, str] = {}
    """Variables that show a process some of the machine's devices alone."""


class Launch(Strict):
    """One process group from start to end: the unit of statistics."""

    index: int
    """0 is the cold launch."""
    seed: int
    session: str
    """The invocation of `bench run` that it belongs to; rounds are paired within one session."""
    round: int
    in_turns: bool = False
    """Its windows alternated with those of another launch, and each rested while the other computed
    (`bench ab`)."""
    cpus: list[int] | None = None
    """It was kept on these, like the other side; null: it could use all that were visible."""
    ranks: list[RankPlace] = []
    """By rank; empty: an older record."""
    started: UtcTime
    """ISO 8601, in UTC."""
    phases: Phases
    micro_batches_per_window: int
    steps_per_window: int
    samples_per_window: int
    """Over all ranks."""
    window_s: list[list[float]]
    """Fence to fence, per rank, then per window. Unit: seconds."""
    straggler: Straggler | None = None
    """Null: one rank, or an older record."""
    voided_windows: int = 0
    """Windows dropped because a graph was compiled inside."""
    dropped_windows: int = 0
    """Leading windows that the truncation rule gave to the warm-up."""
    warm_up_steps: int
    steady: bool
    """False: the warm-up met its cap before two windows agreed."""
    compilation: Compilation
    executions: int | None = None
    """Graph executions inside the windows; null on an eager device."""
    expected_executions: int | None = None
    fallbacks: dict[str, int] = {}
    """Operators that ran on the host instead of the device, with their count."""
    fence_residual_s: list[float] = []
    """After each window: extra time the first read of an updated parameter took."""
    peak_memory_bytes: int | None = None
    """Of the device after the warm-up, the largest rank; null: its runtime keeps no count."""
    host_peak_rss_bytes: int | None = None
    """Of the training processes after the warm-up, the largest rank."""
    memory_window_bytes: list[int] = []
    """In use after each window, on rank 0; on the host's processors without mapped files, which its
    peak includes. Empty where it cannot be read."""
    energy: Energy | None = None
    """Over all ranks' devices; null: an older record."""
    clocks: Clocks | None = None
    inspection: Inspection | None = None
    """Of the first launch, unless the diagnostics were switched off."""
    flops_per_sample: float | None = None
    """Floating-point operations of the model's products, forward and, in training, backward; null:
    unknown, or not the first launch, which counts for all."""
    peak: Peak | None = None
    """Of one device, in the type its products ran in; null: unknown device, or mixed types."""
    loss_first: float | None = None
    loss_last: float | None = None
    noise: Noise = Noise()
    audit: list[Check] = []
    diagnostics: Diagnostics | None = None
    actual: dict[str, JsonValue] = {}
    """What really ran: engine, world, precision, compile, optimizer, batch, threads, ..."""

    @model_validator(mode="after")
    def _windows_are_times(self) -> Launch:
        lengths = {len(times) for times in self.window_s}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError("window_s needs the same number of windows, at least one, per rank")
        if not all(t > 0 and math.isfinite(t) for times in self.window_s for t in times):
            raise ValueError("window_s must be positive and finite")
        return self

    @property
    def slowest_s(self) -> float:
        """Time of all windows, each on its slowest rank. Unit: seconds."""
        return math.fsum(max(ranks) for ranks in zip(*self.window_s, strict=True))

    @property
    def samples_per_s(self) -> float:
        """All samples of all ranks / the time of the slowest rank: a ratio of totals."""
        return self.samples_per_window * len(self.window_s[0]) / self.slowest_s


class Statistics(Strict):
    """The run's figures, from its launches. Null interval: one launch has none."""

    samples_per_s: float
    samples_per_s_low: float | None = None
    samples_per_s_high: float | None = None
    confidence: float = 0.95
    step_ms: float
    launches: int
    degrees_of_freedom: int | None = None
    method: Literal["fixed", "stein"] = "fixed"
    precision_reached: bool | None = None
    """For a precision target: whether the interval is as narrow as asked."""


class Precompiled(Strict):
    """What `--precompile` compiled before the first launch, of whose figures it is no part."""

    compiles: int
    """Compilations on rank 0, or graphs that were noted there and compiled beside each other."""
    seconds: float
    """Wall time of the untimed run and the compiler. Other cases may have been compiled meanwhile.
    """


class Environment(Strict):
    """Where it ran: an allow-list. No host name, user, path or secret."""

    versions: dict[str, str] = {}
    """Software by distribution name, python included."""
    os: str | None = None
    kernel: str | None = None
    machine: str | None = None
    cpu_model: str | None = None
    cpus_visible: int | None = None
    cpus_total: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cpu_limit: float | None = None
    """CPUs the container may use; null: no limit."""
    governor: str | None = None
    flags: dict[str, str] = {}
    """Environment variables of an allow-list that steer the software."""
    git_commit: str | None = None
    git_dirty: bool | None = None


class Device(Strict):
    """The device a case ran on."""

    model: str
    count: int
    flavour: str | None = None
    """Which of several software stacks ran it."""


class Keys(Strict):
    """The three identities (see `bench.scenarios.identity`)."""

    work: str
    series: str
    fingerprint: str


class Record(Strict):
    """One run of one case on one backend: immutable once written."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = RECORD_SCHEMA_VERSION
    kind: Literal["run"] = "run"
    measurement: int = MEASUREMENT_VERSION
    tool_version: str
    id: str
    created: UtcTime
    """ISO 8601, in UTC."""
    session: str
    position: int
    """Place of the case among the cases of its scenario in that session, from 0."""
    side: Literal["A", "B"] | None = None
    """Of a comparison (`bench ab`), whose protocol is its own; null: a run for its own sake."""
    keys: Keys
    requested: Case
    contents: dict[str, str] = {}
    """Digests of what the user's files say, by the knob that names each, and a named drive: in the
    keys they stand in place of the paths."""
    backend: str
    device: Device | None = None
    flavour: str | None = None
    """Which of several software stacks goes by the backend's name there, also where it found no
    device; records from before it came have it in `device` alone."""
    simulated: bool = False
    """A test bed pretends the device: figures are those of whatever computed in its place."""
    processes: int
    environment: Environment
    outcome: Annotated[Outcome, Field(strict=False)]
    phase: Annotated[Phase | None, Field(strict=False)] = None
    """Where it ended, unless it ended well."""
    reason: str | None = None
    remedy: str | None = None
    log_tail: str | None = None
    precompiled: Precompiled | None = None
    """Null: nothing was compiled beforehand in the session that finished it."""
    launches: list[Launch] = []
    statistics: Statistics | None = None
    verdict: Annotated[Verdict | None, Field(strict=False)] = None
    verdict_reason: str | None = None
    health: Health | None = None
    """Null: inference, not asked for, or no number."""

    @property
    def devices(self) -> int:
        """The devices of all processes, over which the throughput is counted."""
        return self.requested.knobs.devices

    @model_validator(mode="after")
    def _a_number_only_with_an_ok(self) -> Record:
        if (self.outcome is Outcome.OK) != (self.statistics is not None):
            raise ValueError("statistics belong to the outcome ok, and only to it")
        if self.outcome is not Outcome.OK and not self.reason:
            raise ValueError(f"outcome {self.outcome} needs a reason")
        if (self.verdict is None) != (self.statistics is None):
            raise ValueError("a number needs a verdict, and a verdict a number")
        if self.verdict is Verdict.CLAIMED:
            raise ValueError("a run is never `claimed`: that verdict is for published numbers")
        return self

    @model_validator(mode="after")
    def _the_number_follows_from_its_windows(self) -> Record:
        if self.statistics is None or self.measurement < _DERIVED_SINCE:
            return self
        logs = [math.log(launch.samples_per_s) for launch in self.launches]
        derived = math.exp(math.fsum(logs) / len(logs)) if logs else math.nan
        stated = self.statistics.samples_per_s
        if not math.isclose(stated, derived, rel_tol=_ROUNDING):
            raise ValueError(
                f"statistics.samples_per_s is {stated:g}, and the windows of its launches give "
                f"{derived:g}: all samples of all ranks / the time of the slowest rank"
            )
        return self


class Source(Strict):
    """Where a published number comes from."""

    title: str
    author: str
    date: str
    locator: str
    """Which table or section."""
    url: str | None = None


class Claim(Strict):
    """A number that others published: shown beside ours, never a reference for a ratio."""

    scenario: str
    case: str
    backend: str
    device: str
    processes: int
    settings: str
    samples_per_s: float | None
    """Null: the source names the setting and gives no number."""
    remark: str | None = None


class Publication(Strict):
    """One source and its claims: a file in `results/published`."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = RECORD_SCHEMA_VERSION
    kind: Literal["publication"] = "publication"
    source: Source
    claims: list[Claim]
