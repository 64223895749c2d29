"""Filling the compile caches of all cases before the first launch, several cases at a time.

An untimed run of each case takes the few steps by which its graphs come about; where the device
only notes them, another process then compiles them. How many are alive at once follows from the
CPUs, and from what the adapter says of its devices. Nothing is timed or recorded here.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

from bench.backends import host, registry
from bench.backends.base import Precompilation, Refusal
from bench.results.record import Phase, Precompiled
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.scenarios.errors import ScenarioError

OPTION = "--precompile"
_TICK_S = 0.1

Stop = Callable[[], bool]
UntimedRun = Callable[[Order, Stop, bool], Precompiled | End]
"""Takes the order, what tells it to stop, and whether the device only notes its graphs."""
NotedGraphs = Callable[[Order, Stop, int], Precompiled | End]
"""Takes the order, what tells it to stop, and how many graphs to compile at once."""


@dataclass(frozen=True)
class Filled:
    """How the cache of one case was filled, or what stood in the way."""

    number: int
    """Place of its order among those that were given."""
    result: Precompiled | End
    seconds: float
    """From its start; other cases may have been compiled meanwhile."""


def how(planned: Planned) -> Precompilation | Refusal | None:
    """Return how a case is precompiled; null: it compiles nothing. A refusal: it cannot be."""
    backend, case = registry.get(planned.backend), planned.case
    found = backend.precompilation(case.knobs, planned.probe)
    kept = backend.compile_cache(case.knobs, planned.probe, "") is not None
    if isinstance(found, Precompilation) and not kept:
        reason = "its adapter names no place where compiled code is kept"
        return Refusal(knob=OPTION, value=True, reason=reason)
    return found


def check(planned: Sequence[Planned]) -> list[Planned]:
    """Return the cases that compile nothing, to which the option means nothing.

    Args:
        planned: All cases; those that cannot be launched are not looked at.

    Raises:
        ScenarioError: what a case compiles would not be there for its launches, or no case compiles
            anything.
    """
    runnable = [case for case in planned if case.runnable]
    without = []
    for case in runnable:
        found = how(case)
        if isinstance(found, Refusal):
            raise ScenarioError(
                OPTION,
                f"{case.title} cannot be precompiled: {found.reason}",
                "leave the option out, or choose other backends and cases with --backend and "
                "--case",
            )
        if found is None:
            without.append(case)
    if runnable and len(without) == len(runnable):
        raise ScenarioError(
            OPTION,
            "nothing is compiled in these cases: they run eagerly",
            "leave the option out, or set compile",
        )
    return without


class Precompiler:
    """Runs what fills the caches.

    Args:
        cpus: How many ranks and compilers may be alive at once; null: as many as there are CPUs.
        untimed: What runs the untimed steps of a case.
        noted: What compiles the graphs that they have noted.
    """

    def __init__(
        self,
        cpus: int | None = None,
        untimed: UntimedRun = launching.precompile,
        noted: NotedGraphs = launching.compile_noted,
    ) -> None:
        self._cpus = host.cpus_visible() if cpus is None else cpus
        self._untimed = untimed
        self._noted = noted

    def run(
        self, orders: Sequence[tuple[Order, Precompilation]], stop: Stop
    ) -> Generator[Filled, None, None]:
        """Yield how each cache was filled, as soon as it is; all on the calling thread.

        When it is closed, what is alive is ended.

        Raises:
            Interrupted: `stop` said so; no process of any case is left.
        """
        shop = _Shop(self._cpus, stop, self._untimed, self._noted)
        with contextlib.closing(shop):
            waiting = [_Task(number, *order) for number, order in enumerate(orders)]
            while waiting or shop.running:
                if stop():
                    raise Interrupted(Phase.FIRST_STEP)
                shop.start(waiting)
                task = shop.ended()
                if task is None:
                    continue
                if task.error is not None:
                    raise task.error
                if isinstance(task.result, Precompiled) and task.goes_on:
                    left = len(waiting) + len(shop.running) + 1
                    waiting.insert(0, task.compiling(self._cpus, left))
                elif task.result is not None:
                    yield task.filled(task.result)


@dataclass(eq=False)
class _Task:
    """One case, in the stage that it has reached."""

    number: int
    order: Order
    plan: Precompilation
    jobs: int | None = None
    """Of the compiler; null: its steps come first."""
    begun: float | None = None
    devices: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None
    result: Precompiled | End | None = None
    error: BaseException | None = None

    @property
    def alone(self) -> bool:
        return self.plan.alone and self.jobs is None

    @property
    def goes_on(self) -> bool:
        return self.plan.notes and self.jobs is None

    @property
    def ranks(self) -> int:
        return self.order.planned.case.knobs.processes

    def compiling(self, cpus: int, left: int) -> _Task:
        """Return its next stage: its share of the compilers, `left` cases being under way."""
        most = cpus if self.plan.compilers is None else min(cpus, self.plan.compilers)
        jobs = max(1, most // left)
        return _Task(self.number, self.order, self.plan, jobs=jobs, begun=self.begun)

    def filled(self, result: Precompiled | End) -> Filled:
        seconds = 0.0 if self.begun is None else time.monotonic() - self.begun
        if isinstance(result, Precompiled):
            result = result.model_copy(update={"seconds": seconds})
        return Filled(self.number, result, seconds)

    def told(self) -> Order:
        """Return its order, with what the run is told beside the environment of the case."""
        told = dict(self.plan.variables)
        if self.plan.shown_by is not None and self.devices:
            told[self.plan.shown_by] = ",".join(self.devices)
        return replace(self.order, cache_environment={**self.order.cache_environment, **told})


class _Shop:
    """The tasks that are alive, and what they share: CPUs, devices and compilers."""

    def __init__(self, cpus: int, stop: Stop, untimed: UntimedRun, noted: NotedGraphs) -> None:
        self.running: list[_Task] = []
        self._cpus = cpus
        self._stop = stop
        self._untimed = untimed
        self._noted = noted
        self._free: dict[str, list[str]] = {}
        """Devices that no task has, by the variable that shows them."""
        self._said: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._over = threading.Event()

    def start(self, waiting: list[_Task]) -> None:
        """Start those of the waiting tasks for which there is room, and take them out."""
        for task in list(waiting):
            if self._admits(task):
                waiting.remove(task)
                self._start(task)
            elif task.alone:
                return  # or those behind it would keep it waiting for ever

    def ended(self) -> _Task | None:
        """Return a task that has ended, or null after a moment without one."""
        try:
            task = self._said.get(timeout=_TICK_S)
        except queue.Empty:
            return None
        if task.thread is not None:
            task.thread.join()
        self.running.remove(task)
        if task.devices and task.plan.shown_by is not None:
            self._free[task.plan.shown_by] += task.devices
        return task

    def close(self) -> None:
        """End what is alive."""
        self._over.set()
        for task in self.running:
            if task.thread is not None:
                task.thread.join()

    def _admits(self, task: _Task) -> bool:
        if not self.running:
            return True  # what asks for more than there is runs by itself
        if task.alone or any(other.alone for other in self.running):
            return False
        if sum(map(_cpus, self.running)) + _cpus(task) > self._cpus:
            return False
        if task.jobs is not None:
            used = sum(other.jobs or 0 for other in self.running)
            return task.plan.compilers is None or used + task.jobs <= task.plan.compilers
        return task.plan.devices is None or len(self._devices(task)) >= task.ranks

    def _devices(self, task: _Task) -> list[str]:
        if task.plan.devices is None or task.plan.shown_by is None:
            return []
        return self._free.setdefault(task.plan.shown_by, list(task.plan.devices))

    def _start(self, task: _Task) -> None:
        if task.jobs is None:
            free = self._devices(task)
            task.devices = free[: task.ranks]
            del free[: task.ranks]
        task.begun = task.begun or time.monotonic()
        # A rank dies with the thread that started it, so this one lives as long as the task.
        name = f"precompile {task.order.planned.title}"
        task.thread = threading.Thread(target=self._run, args=(task,), name=name)
        self.running.append(task)
        task.thread.start()

    def _run(self, task: _Task) -> None:
        try:
            if task.jobs is None:
                task.result = self._untimed(task.told(), self._stopped, task.plan.notes)
            else:
                task.result = self._noted(task.order, self._stopped, task.jobs)
        except BaseException as error:
            # Raised again on the calling thread.
            task.error = error
        finally:
            self._said.put(task)

    def _stopped(self) -> bool:
        return self._over.is_set() or self._stop()


def _cpus(task: _Task) -> int:
    return task.ranks if task.jobs is None else task.jobs
