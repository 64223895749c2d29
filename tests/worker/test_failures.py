"""What a rank says about its own end; torch is not needed for any of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bench.backends import registry
from bench.backends.base import CompileFailed, Unsupported, World
from bench.backends.registry import BackendError
from bench.measure.target import ClockError
from bench.measure.windows import NoCleanWindow
from bench.results.record import Phase
from bench.worker import main
from bench.worker.errors import CollectivesNotRealError
from bench.worker.events import Events
from bench.worker.job import Failure, FailureKind, failure_file
from bench.workload.errors import BadCase
from tests.worker.a_job import a_case, a_job


def compiler_error() -> Exception:
    kind = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    error = kind("CppCompileError: C++ compile error")
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadCase("model=x: no such model"), FailureKind.BAD_CASE),
        (Unsupported("precision", "fp8", "no kernel"), FailureKind.UNSUPPORTED),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate"), FailureKind.OUT_OF_MEMORY),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 9 bytes"
            ),
            FailureKind.OUT_OF_MEMORY,
        ),
        (OSError("[Errno 12] Cannot allocate memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4711"), FailureKind.PEER),
        (RuntimeError("Read error: Connection reset by peer"), FailureKind.PEER),
        (RuntimeError("Timed out waiting 600000ms for recv"), FailureKind.PEER),
        (RuntimeError("writev [10.0.0.2]:4711: Broken pipe"), FailureKind.PEER),
        (
            RuntimeError("NCCL error: remote process exited or there was a network error"),
            FailureKind.PEER,
        ),
        (compiler_error(), FailureKind.COMPILE),
        (CompileFailed("1 of 3 graphs cannot be compiled"), FailureKind.COMPILE),
        (NoCleanWindow(5), FailureKind.UNSETTLED),
        (ClockError("3 micro-batches took 0 s"), FailureKind.EXCEPTION),
        (ValueError("anything else"), FailureKind.EXCEPTION),
    ],
)
def test_the_kind_follows_from_the_exception(error: Exception, kind: FailureKind) -> None:
    assert main.describe(error, rank=1, phase=Phase.BUILD).kind is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("RunNeuronCCImpl: error condition error != 0"), FailureKind.COMPILE),
        (RuntimeError("some other error"), FailureKind.EXCEPTION),
        (RuntimeError("RunNeuronCCImpl: out of memory"), FailureKind.OUT_OF_MEMORY),
        (BadCase("RunNeuronCCImpl is no model"), FailureKind.BAD_CASE),
    ],
)
def test_what_a_compiler_causes_is_known_by_its_words_where_its_class_says_nothing(
    error: Exception, kind: FailureKind
) -> None:
    assert main.describe(error, 0, Phase.FIRST_STEP, ("RunNeuronCCImpl",)).kind is kind
    if kind is FailureKind.COMPILE:
        assert main.describe(error, 0, Phase.FIRST_STEP).kind is FailureKind.EXCEPTION


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Bad StatusOr access: RESOURCE_EXHAUSTED: Failed to allocate", FailureKind.OUT_OF_MEMORY),
        ('nrt_tensor_allocate status=4 message="Allocation Failure"', FailureKind.OUT_OF_MEMORY),
        ("RunNeuronCCImpl: [ERROR] [NCC_EOOM001] exceeds the limit", FailureKind.OUT_OF_MEMORY),
        ("RunNeuronCCImpl: [ERROR] [NCC_EVRF029] sort", FailureKind.COMPILE),
        ("Bad StatusOr access: INVALID_ARGUMENT", FailureKind.EXCEPTION),
    ],
)
def test_want_of_a_devices_memory_is_known_by_its_words(message: str, kind: FailureKind) -> None:
    neuron = registry.get("neuron")
    words = (neuron.compiler_words, neuron.memory_words)
    assert main.describe(RuntimeError(message), 0, Phase.FIRST_STEP, *words).kind is kind
    if kind is FailureKind.OUT_OF_MEMORY:
        plain = main.describe(RuntimeError(message), 0, Phase.FIRST_STEP)
        assert plain.kind is FailureKind.EXCEPTION


def test_a_users_mistake_is_told_in_its_own_words_and_others_name_their_type() -> None:
    mistake = main.describe(BadCase("classes=3: too few"), 0, Phase.BUILD)
    assert mistake.message == "classes=3: too few"
    fault = main.describe(ValueError("odd"), 0, Phase.MEASURE)
    assert (fault.message, fault.phase, fault.rank) == ("ValueError: odd", Phase.MEASURE, 0)


@pytest.mark.parametrize(
    "error",
    [
        BackendError("backend 'x' is unknown"),
        ClockError("3 micro-batches took 0 s by this clock"),
        CollectivesNotRealError("world 1 of 2"),
        Unsupported("precision", "fp8", "no kernel"),
    ],
)
def test_our_own_exceptions_speak_without_the_name_of_their_class(error: Exception) -> None:
    assert main.describe(error, 0, Phase.BUILD).message == str(error)


def test_endless_compilation_is_told_as_what_it_is() -> None:
    told = main.describe(NoCleanWindow(5), 0, Phase.MEASURE)
    assert told.message == (
        "compilation never came to rest: a graph was compiled inside every window that was "
        "tried (5)"
    )


def test_a_refusal_travels_with_its_knob() -> None:
    failure = main.describe(Unsupported("channels_last", True, "no"), 0, Phase.BUILD)
    assert failure.refusal is not None
    assert (failure.refusal.knob, failure.refusal.value) == ("channels_last", True)


def test_a_long_message_is_cut_to_its_first_lines() -> None:
    lines = main.describe(RuntimeError("a\n\nb\nc\nd"), 0, Phase.BUILD)
    assert lines.message == "RuntimeError: a b"
    long = main.describe(RuntimeError("x" * 1000), 0, Phase.BUILD)
    assert len(long.message) == 400
    assert long.message.endswith("…")


def test_a_rank_that_fails_leaves_its_reason_behind_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BENCH_EVENTS_FD", raising=False)
    job = a_job(tmp_path, a_case()).model_copy(update={"backend": "no-such-backend"})
    with pytest.raises(main.RankFailed):
        main.run_rank(job, World(rank=1, size=2), Events(1))
    written = Failure.model_validate_json(failure_file(tmp_path, 1).read_bytes())
    assert written.rank == 1
    with_torch = importlib.util.find_spec("torch") is not None
    assert written.message.startswith(
        "backend 'no-such-backend' is unknown"
        if with_torch
        else "ModuleNotFoundError: No module named 'torch'"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["failure-1.json"]
    assert "Traceback" in capfd.readouterr().err
