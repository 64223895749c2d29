"""The contract between the harness and a device family, in two halves.

A `Backend` is the half that plans: it is imported by the parent process, so it never imports torch
outside `probe` and `open`, which run in children. A `Device` is the half that works: opened inside
a worker, it owns everything that differs between devices, so that nothing outside this package
names one.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import JsonValue

from bench.backends import peaks
from bench.backends.peaks import Peak
from bench.scenarios.schema import AUTOCAST, Knobs, Strict

if TYPE_CHECKING:
    import torch


class Refusal(Strict):
    """A knob that a device cannot honour: never ignored, never replaced."""

    knob: str
    value: JsonValue
    reason: str

    def __str__(self) -> str:
        return f"{self.knob}={self.value}: {self.reason}"


class Probe(Strict):
    """What one short child process found out about a backend on this machine."""

    backend: str
    available: bool
    reason: str | None = None
    """Why it is not available, in one line."""
    remedy: str | None = None
    """What to do about it: a command where there is one."""
    device_model: str | None = None
    device_count: int = 0
    flavour: str | None = None
    """Which of several software stacks answers under this name (a PJRT device type, say)."""
    simulated: bool = False
    """The device is pretended by a test bed: no figure is that of such a device."""
    preferred: int = 0
    """Among available backends, the highest is the default."""
    facts: dict[str, JsonValue] = {}
    """What `refusals` and `environment` need to know beyond the knobs."""
    warnings: list[str] = []
    """What would spoil a measurement on this device, each with its remedy."""


class Unsupported(Exception):  # noqa: N818 - an outcome, not an error
    """Raised in a worker when the device or the model turns out not to honour a knob."""

    def __init__(self, knob: str, value: JsonValue, reason: str) -> None:
        super().__init__(f"{knob}={value}: {reason}")
        self.refusal = Refusal(knob=knob, value=value, reason=reason)


class CompileFailed(Exception):  # noqa: N818 - an outcome, not an error
    """Raised where a compiler has given up; the message is what it said last."""


@dataclass(frozen=True)
class World:
    """The place of this process among the ranks of a launch."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    nodes: int = 1
    """Machines over which the ranks are spread, as many on each."""
    node: int = 0
    """Number of this rank's machine among those."""

    @property
    def local_size(self) -> int:
        """Ranks on this machine."""
        return self.size // self.nodes


@dataclass(frozen=True)
class Counters:
    """Cumulative counts since the device was opened; null: the device does not count it."""

    compiles: int = 0
    compile_s: float | None = None
    """Unit: seconds."""
    executions: int | None = None
    fallbacks: Mapping[str, int] | None = None
    """Operators that ran on the host in place of the device, by name."""
    graph_breaks: Mapping[str, int] | None = None
    """Where torch.compile gave back to Python, by reason; null: it is not asked."""
    recompiles: int | None = None
    """Compilations of code that was compiled before, for other shapes or settings; null as above.
    """
    graphs_skipped: int | None = None
    """CUDA graphs that the compiler was asked for and did not make; null as above."""


@dataclass(frozen=True)
class EnergyCount:
    """A cumulative energy counter at one moment: joules, or the reason why there are none."""

    joules: float | None = None
    """Since some fixed moment; it never falls."""
    source: str | None = None
    """Which counter, and what it covers."""
    period_s: float = 0.0
    """Time between two updates of the counter. Unit: seconds."""
    machine_wide: bool = False
    """All ranks of a machine read the same counter, so it is not summed over them."""
    reason: str | None = None


@dataclass(frozen=True)
class ClockRates:
    """How fast the device's clock runs at one moment, and what has held it back so far."""

    source: str | None
    """Null: neither a rate nor a reason is told."""
    mhz: float | None = None
    """Of the part that works; null: not told."""
    throttled: Mapping[str, int] = field(default_factory=dict)
    """How often each reason for running slower was met, since some fixed moment."""
    calculation_us: float | None = None
    """What a fixed calculation takes on it; null: none is made there. Unit: microseconds."""


@dataclass(frozen=True)
class Precompilation:
    """How the compile cache of a case is filled before its first launch, by `--precompile`.

    An untimed run of a few steps does it, a process group like a launch; those of several cases are
    alive at once.
    """

    alone: bool = False
    """Nothing runs beside it: there is one device, or its compiler times what it chooses from."""
    devices: tuple[str, ...] | None = None
    """All devices by name, of which a run is shown as many as it has ranks and no other run has
    them meanwhile; null: what there is is shared."""
    shown_by: str | None = None
    """The variable that shows a process some of them alone: their names, with commas between."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What else the run is told, beside the environment of the case."""
    notes: bool = False
    """Told so, the device notes the graphs and computes nothing, so that no value means anything.
    `Backend.compile_noted` compiles them afterwards."""
    compilers: int | None = None
    """How many processes may do that at once; null: one for each CPU."""


class Device(ABC):
    """A device opened in a worker. Methods are called on one thread only."""

    torch_device: torch.device
    process_group: ClassVar[str | None] = None
    """Name of torch.distributed's backend for this device; null: one process only."""
    ddp_options: ClassVar[Mapping[str, Any]] = {}
    """Arguments that DistributedDataParallel needs on this device to be right."""
    own_memory: bool | None = None
    """Whether its memory is another than the host's, so that what is kept there is saved here.
    Null: it does not tell."""
    emulates_float8: ClassVar[bool] = False
    """Whether products of float8 are computed by other products here. Its rows say so."""

    @abstractmethod
    def fence(self) -> None:
        """Return when every issued piece of work has finished on the device."""

    @abstractmethod
    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        """Bring host batches to the device, cutting the graph as `knobs.loader` asks.

        Batches for which `knobs.data.source` is `device` lie there already.
        """

    def autocast(self, knobs: Knobs) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the forward pass: autocast for amp-bf16, amp-fp16 and fp8."""
        import torch

        if knobs.precision not in AUTOCAST:
            return contextlib.nullcontext()
        dtype = getattr(torch, AUTOCAST[knobs.precision])
        return torch.autocast(self.torch_device.type, dtype=dtype)

    @abstractmethod
    def counters(self) -> Counters:
        """Return the counts so far."""

    def seed(self, seed: int) -> None:
        """Seed torch, and the device where it has a generator of its own."""
        import torch

        torch.manual_seed(seed)

    def place(self, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
        """Move a model to the device in the memory order and the type that the knobs ask for."""
        import torch

        if knobs.channels_last:
            module = module.to(memory_format=torch.channels_last)
        if knobs.precision == "bf16":
            module = module.to(torch.bfloat16)
        return module.to(self.torch_device)

    def compile(self, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
        """Return the module as `knobs.compile` asks: itself for `none`."""
        import torch

        if knobs.compile == "none":
            return module
        compiled = torch.compile(module, backend=knobs.compile, mode=knobs.compile_mode)
        if not isinstance(compiled, torch.nn.Module):
            raise TypeError(f"torch.compile returned {type(compiled).__name__}, not a module")
        return compiled

    @contextlib.contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Make activation checkpointing work on this device while models are built and run."""
        yield

    def keep(self, output: torch.Tensor) -> torch.Tensor:
        """Return a result that nothing else depends on, so that it is computed and stays readable.

        The step calls this with every output of inference. A device that builds graphs lazily drops
        what nobody holds when the graph is cut, so that all but the last would never be computed;
        one that replays graphs writes the next output over the last.
        """
        return output

    def step_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply one update."""
        optimizer.step()

    def reset_peak_memory(self) -> None:  # noqa: B027 - a device may keep no such count
        """Begin the peak of `peak_memory_bytes` anew, where the device can."""

    def peak_memory_bytes(self) -> int | None:
        """Return the device's peak memory since `reset_peak_memory`.

        Null: there is no count of it, or one that also holds what came before the reset.
        """
        return None

    def memory_bytes(self) -> int | None:
        """Return the device's memory in use by this process now; null: it is not told."""
        return None

    def disturbances(self) -> list[str]:
        """Return who else uses the device now, with what helps; empty: nobody, or it is not told.

        Called before the windows and after them: it makes a row noisy.
        """
        return []

    def float32_format(self) -> str | None:
        """Return the format to which the settings let products of float32 be rounded.

        fp32 or tf32; null: several.
        """
        return "fp32"

    def energy(self) -> EnergyCount:
        """Read the device's energy counter. Takes far less than a millisecond."""
        return EnergyCount(reason="this backend reads no energy counter")

    def mark(self) -> Any:
        """Note the moment at which the device will have done all that was issued so far.

        Waits for nothing. Null: this device keeps no time of its own, or what is issued lies in no
        queue in which a mark could stand.
        """
        return None

    def between_s(self, earlier: Any, later: Any) -> float:
        """Return the time between two marks, by the device's clock, after a fence. Unit: seconds.

        Args:
            earlier: Of `mark`, not null.
            later: A mark that was made after it.
        """
        raise NotImplementedError("a device that makes marks tells the time between them")

    def clocks(self) -> ClockRates | None:
        """Read the device's clock and its reasons for running slower; null: neither is told.

        Called right after a fence, since a device that rests may lower its clock soon.
        """
        return None

    def prove(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Check by a tiny computation that settings made through the environment act.

        Raises:
            Unsupported: a setting was asked for and does not act.
        """
        return {}

    def matmul_types(
        self, run: Callable[[], Sequence[torch.Tensor]]
    ) -> tuple[dict[str, int], str] | None:
        """Count the products of a piece of work by the type of their operands.

        Args:
            run: Issues the work without waiting for it, and returns the tensors it leaves behind.

        Returns:
            Count by type (fp32, bf16, ...), and where they were counted; null: it cannot be seen
            what the device computes, and nothing was run.
        """
        from bench.backends import products

        return products.dispatched(run), "dispatched operators"

    def pending(self, tensor: torch.Tensor) -> str | None:
        """Return how a tensor whose value is not there yet will be computed.

        The text changes with the value that the tensor will have. Null: values are computed as the
        program says, so they can be looked at themselves.
        """
        return None

    def peak(self, dtype: str, device_model: str | None) -> Peak | None:
        """Return the most that one device of a rank can do in products of one type.

        Args:
            dtype: One of fp64, fp32, tf32, bf16, fp16, fp8 and int8.
            device_model: What the probe called the device.

        Returns:
            A figure with its source; null: none is known for exactly this device and type.
        """
        return peaks.load(peaks.users()).find(device_model, dtype)

    def describe(self) -> dict[str, JsonValue]:
        """Return what the device says of itself."""
        return {"device": str(self.torch_device)}

    def close(self) -> None:  # noqa: B027 - most devices hold nothing
        """Release what the device holds; the process ends soon after."""


class Backend(ABC):
    """The planning half of an adapter, registered in the entry-point group `bench.backends`."""

    name: ClassVar[str]
    families: ClassVar[Collection[str]] = ()
    """Groups of knobs of one device family, as `neuron` is, that this adapter knows: it honours or
    refuses each of them. All others are refused for it (`bench.backends.families`)."""
    engines: ClassVar[Collection[str]] = ()
    """Values of `engine` that drive its devices, beside plain and ddp. All others are refused for
    it (`bench.backends.engines`)."""
    compiler_words: ClassVar[Collection[str]] = ()
    """What an error says that the compiler has caused, where its class does not tell."""
    memory_words: ClassVar[Collection[str]] = ()
    """What an error says for want of the device's memory, where its class does not tell."""

    @abstractmethod
    def probe(self) -> Probe:
        """Find out whether it can be used here, and if not why. Runs in a child process."""

    @abstractmethod
    def open(self, knobs: Knobs, world: World) -> Device:
        """Open the device in a worker whose environment is already that of `environment`."""

    def devices(self) -> Mapping[str, Probe]:
        """Return what `probe` finds on each kind of device that this adapter is for, by its title.

        As on a machine with two of them where everything is installed. No machine is asked: the
        page of settings is made of what `refusals` says to these (`bench.backends.settings`).
        """
        return {}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Return the environment variables a case needs before its process starts."""
        return {}

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Return every knob of the case that this device cannot honour, with its reason."""
        return []

    def first_cut(self, knobs: Knobs) -> int:
        """Return how many micro-batches `feed` lets into the first graph; 0 where nothing is cut.

        Every later graph holds `knobs.loader.batches_per_execution` of them.
        """
        return 0

    def prefetched(self, knobs: Knobs) -> int:
        """Return how many batches may wait between the loader and the step. Unit: micro-batches.

        Warm-up draws at least as many, or the first windows would spend what was loaded while the
        first graph compiled.
        """
        if knobs.data.workers == 0:
            return 0
        per_worker = 2 if knobs.data.prefetch is None else knobs.data.prefetch
        return knobs.data.workers * per_worker

    def least_periods(self, knobs: Knobs) -> int:
        """Return how many periods a window should hold for its fence to cost under 1 % of it.

        1 where work is done when a call returns. Where the device works behind the host, it stands
        idle after a fence for the time in which the host prepares the first graph.
        """
        return 1

    def two_at_once(self, knobs: Knobs, probe: Probe) -> bool:
        """Return whether two launches may be alive on the device at once, all but one at rest.

        They are then compared by turns of a fraction of a second. Where a process holds the device
        for itself, or the work of one that rests would still be on it, launches follow each other.
        """
        return False

    def host_threads(self, knobs: Knobs) -> int | None:
        """Return how many threads of a rank compute on the host at once; null: it is not known.

        Two launches that are compared by turns are kept on so many CPUs, the same for both: each
        CPU has neighbours of its own. Null where a device, or a compiler, works beside them.
        """
        return None

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Return the environment that keeps compiled code in `folder`; null: nothing reads one."""
        return None

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Return how the cache of `compile_cache` is filled before the first launch.

        Null: the case compiles nothing, so that there is nothing to do. A refusal: what it compiles
        would not be there for its launches.
        """
        if self.compile_cache(knobs, probe, "") is None:
            return Refusal(
                knob="--precompile",
                value=True,
                reason=f"{self.name} keeps no compiled code from one process to the next",
            )
        return Precompilation(alone=True)

    def compile_noted(self, jobs: int) -> int:
        """Compile the graphs that an untimed run has noted, and return how many there were.

        Runs in a child of its own, in the environment of the case and its cache, without a device.
        Called only where `Precompilation.notes` is set.

        Args:
            jobs: How many to compile at once.

        Raises:
            CompileFailed: one of them cannot be compiled; what the compiler said was printed.
        """
        raise NotImplementedError("a backend whose devices note graphs compiles them")
