"""How a launch ended, judged from what it left: exit codes, failures, logs and counters."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.backends import registry
from bench.results.record import Check, CheckResult, Outcome, Phase
from bench.run import ending
from bench.run.ending import End
from bench.worker.job import Failure, FailureKind, failure_file, log_file
from tests.builders import a_launch

KILLED, ABORTED = -signal.SIGKILL, -signal.SIGABRT


def fail(
    folder: Path, rank: int, kind: FailureKind, message: str = "why", time: float = 1.0
) -> None:
    failure = Failure(rank=rank, kind=kind, phase=Phase.WARM_UP, message=message, time=time)
    failure_file(folder, rank).write_text(failure.model_dump_json(), encoding="utf-8")


def judge(folder: Path, *codes: int | None, memory: bool = False) -> End:
    return ending.judge(folder, codes, [Phase.BUILD] * len(codes), memory)


class TestSilentDeath:
    def test_a_kill_is_a_crash_unless_the_kernel_killed_for_memory(self, tmp_path: Path) -> None:
        assert judge(tmp_path, KILLED).outcome is Outcome.CRASH
        end = judge(tmp_path, KILLED, memory=True)
        assert end.outcome is Outcome.OOM
        assert end.reason == "killed by the kernel for want of memory (SIGKILL)"
        assert end.remedy is not None

    def test_another_signal_is_a_crash_whatever_the_kernel_killed_elsewhere(
        self, tmp_path: Path
    ) -> None:
        end = judge(tmp_path, -signal.SIGSEGV, memory=True)
        assert (end.outcome, end.reason) == (
            Outcome.CRASH,
            "killed from outside or by a fault of its own (SIGSEGV)",
        )

    def test_an_abort_over_a_failed_allocation_is_out_of_memory(self, tmp_path: Path) -> None:
        log_file(tmp_path, 0).write_text("terminate called ... std::bad_alloc\n", encoding="utf-8")
        assert judge(tmp_path, ABORTED).outcome is Outcome.OOM

    @pytest.mark.parametrize(
        ("said", "outcome"),
        [
            ("INTERNAL: RunNeuronCCImpl: error condition error != 0", Outcome.COMPILE_FAILED),
            ("RESOURCE_EXHAUSTED: Failed to allocate", Outcome.OOM),
            ("INTERNAL: something else", Outcome.CRASH),
        ],
    )
    def test_an_abort_over_the_devices_own_troubles_is_known_by_its_words(
        self, tmp_path: Path, said: str, outcome: Outcome
    ) -> None:
        log_file(tmp_path, 0).write_text(f"Non-OK-status: {said}\n", encoding="utf-8")
        neuron = registry.get("neuron")
        assert ending.judge(tmp_path, [ABORTED], [Phase.BUILD], False, neuron).outcome is outcome
        assert ending.judge(tmp_path, [KILLED], [Phase.BUILD], False, neuron).outcome is (
            Outcome.CRASH
        )
        assert judge(tmp_path, ABORTED).outcome is Outcome.CRASH

    def test_any_other_abort_is_a_crash(self, tmp_path: Path) -> None:
        log_file(tmp_path, 0).write_text("assertion failed\n", encoding="utf-8")
        assert judge(tmp_path, ABORTED).outcome is Outcome.CRASH

    def test_a_signal_without_a_name_is_told_by_its_number(self, tmp_path: Path) -> None:
        end = judge(tmp_path, -35)
        assert (end.outcome, end.reason) == (
            Outcome.CRASH,
            "killed from outside or by a fault of its own (signal 35)",
        )

    def test_an_exit_code_without_words_is_told(self, tmp_path: Path) -> None:
        assert judge(tmp_path, 7).reason == "the process ended with exit code 7 and gave no reason"


class TestMemoryKills:
    def test_they_are_counted_where_this_kernel_counts_them(self, tmp_path: Path) -> None:
        assert ending.oom_kills(tmp_path, tmp_path) == 0
        (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 2\n", encoding="ascii")
        (tmp_path / "memory.events").write_text("oom 5\noom_kill 3\n", encoding="ascii")
        assert ending.oom_kills(tmp_path, tmp_path) == 5
        (tmp_path / "memory").mkdir()
        control = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"
        (tmp_path / "memory/memory.oom_control").write_text(control, encoding="ascii")
        assert ending.oom_kills(tmp_path, tmp_path) == 9

    @pytest.mark.parametrize(
        "message",
        [
            "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed. ",
            "RuntimeError: DataLoader worker (pid(s) 4711, 4712) exited unexpectedly",
        ],
    )
    def test_a_loader_worker_is_out_of_memory_only_if_the_kernel_killed_for_it(
        self, tmp_path: Path, message: str
    ) -> None:
        fail(tmp_path, 0, FailureKind.EXCEPTION, message)
        assert judge(tmp_path, 1).outcome is Outcome.CRASH
        end = judge(tmp_path, 1, memory=True)
        assert (end.outcome, end.reason) == (Outcome.OOM, message)
        assert "lower data.workers" in (end.remedy or "")

    def test_any_other_exception_is_what_it_says(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.EXCEPTION, "ValueError: no weights")
        assert judge(tmp_path, 1, memory=True).outcome is Outcome.CRASH


class TestWhoIsToBlame:
    def test_the_rank_with_a_reason_of_its_own_and_not_its_victims(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.PEER, "connection closed by peer", time=1.0)
        fail(tmp_path, 1, FailureKind.OUT_OF_MEMORY, "out of memory", time=2.0)
        end = judge(tmp_path, 1, 1)
        assert (end.outcome, end.reason, end.phase) == (
            Outcome.OOM,
            "rank 1: out of memory",
            Phase.WARM_UP,
        )

    def test_the_first_of_several_reasons(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.EXCEPTION, "later", time=9.0)
        fail(tmp_path, 1, FailureKind.EXCEPTION, "sooner", time=8.0)
        assert judge(tmp_path, 1, 1).reason == "rank 1: sooner"

    def test_the_killed_rank_and_not_the_one_that_lost_its_peer(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.PEER)
        end = judge(tmp_path, 1, KILLED)
        assert end.reason.startswith("rank 1: killed")

    def test_the_first_killed_and_not_what_a_victim_says_of_it(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.EXCEPTION, "RuntimeError: an error nobody knows", time=9.9)
        codes, phases = [1, KILLED], [Phase.MEASURE] * 2
        end = ending.judge(tmp_path, codes, phases, False, ended_at=[10.0, 10.1])
        assert end.reason.startswith("rank 1: killed from outside")
        late = ending.judge(tmp_path, codes, phases, False, ended_at=[10.0, 12.0])
        assert late.reason == "rank 0: RuntimeError: an error nobody knows"

    def test_the_first_that_ended_without_a_word_and_not_what_a_victim_says_of_it(
        self, tmp_path: Path
    ) -> None:
        fail(tmp_path, 0, FailureKind.EXCEPTION, "RuntimeError: an error nobody knows", time=9.9)
        phases = [Phase.MEASURE] * 2
        end = ending.judge(tmp_path, [1, 3], phases, False, ended_at=[10.0, 9.8])
        assert end.reason == "rank 1: the process ended with exit code 3 and gave no reason"
        # A library that ends its process for the loss of a peer does it later than that.
        late = ending.judge(tmp_path, [1, 3], phases, False, ended_at=[10.0, 10.1])
        assert late.reason == "rank 0: RuntimeError: an error nobody knows"

    @pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGTERM])
    def test_a_rank_that_was_ended_after_another_failed_is_its_victim(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        fail(tmp_path, 1, FailureKind.EXCEPTION, "ValueError: odd", time=9.9)
        phases = [Phase.MEASURE] * 2
        end = ending.judge(tmp_path, [-number, 1], phases, False, ended_at=[10.1, 10.0])
        assert end.reason == "rank 1: ValueError: odd"

    def test_of_several_that_were_killed_the_first(self, tmp_path: Path) -> None:
        phases = [Phase.MEASURE] * 3
        end = ending.judge(
            tmp_path, [KILLED, KILLED, KILLED], phases, False, ended_at=[12.0, 11.0, 13.0]
        )
        assert end.reason.startswith("rank 1: killed")

    def test_the_rank_that_left_early_without_a_word(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.PEER)
        end = judge(tmp_path, 1, 0)
        assert end.reason == "rank 1: the process ended with exit code 0 and left no result"

    def test_a_rank_that_we_ended_ourselves_is_never_to_blame(self, tmp_path: Path) -> None:
        assert judge(tmp_path, None, 3).reason.startswith("rank 1: the process ended with")

    def test_a_peer_failure_stands_where_nothing_better_is_known(self, tmp_path: Path) -> None:
        fail(tmp_path, 1, FailureKind.PEER, "timed out waiting")
        assert judge(tmp_path, None, 1).reason == "rank 1: timed out waiting"

    def test_one_rank_is_not_named(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.UNSUPPORTED, "compile=inductor: no compiler")
        end = judge(tmp_path, 1)
        assert (end.outcome, end.reason) == (Outcome.UNSUPPORTED, "compile=inductor: no compiler")


class TestReported:
    def test_endless_compilation_is_no_crash_and_names_its_own_remedy(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.UNSETTLED, "compilation never came to rest: ...")
        end = judge(tmp_path, 1)
        assert (end.outcome, end.reason, end.remedy) == (
            Outcome.COMPILE_FAILED,
            "compilation never came to rest: ...",
            "look for shapes or Python values that change from step to step",
        )

    def test_a_reason_that_will_be_recorded_names_no_folder(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.EXCEPTION, "OSError: /srv/private/weights.pt is missing")
        assert judge(tmp_path, 1).reason == "OSError: <path>/weights.pt is missing"

    def test_a_port_that_is_taken_has_its_remedy(self, tmp_path: Path) -> None:
        fail(
            tmp_path,
            0,
            FailureKind.EXCEPTION,
            "DistNetworkError: The server socket has failed to listen on any local network "
            "address. port: 29500, name: EADDRINUSE, message: address already in use",
        )
        end = judge(tmp_path, 1, None)
        assert end.outcome is Outcome.CRASH
        assert (end.remedy or "").startswith("another program has the port")

    def test_a_users_mistake_keeps_the_path_that_the_user_gave(self, tmp_path: Path) -> None:
        fail(tmp_path, 0, FailureKind.BAD_CASE, "data.source=folder:/srv/private/cats: no such")
        end = judge(tmp_path, 1)
        assert end.bad_case
        assert end.reason == "data.source=folder:/srv/private/cats: no such"

    def test_an_end_that_we_brought_about_is_scrubbed_too(self, tmp_path: Path) -> None:
        end = ending.stopped(
            tmp_path, Outcome.CRASH, Phase.REPORT, "cannot read /srv/private/launch.json", 0
        )
        assert end.reason == "cannot read <path>/launch.json"


class TestLogTail:
    def test_it_is_the_last_lines_of_a_log_of_any_size(self, tmp_path: Path) -> None:
        with log_file(tmp_path, 0).open("w", encoding="utf-8") as log:
            log.writelines(f"line {n}\n" for n in range(500_000))
        lines = (ending.log_tail(tmp_path, 0) or "").splitlines()
        assert lines == [f"line {n}" for n in range(499_970, 500_000)]

    def test_bytes_that_are_no_text_cannot_reach_a_terminal(self, tmp_path: Path) -> None:
        log_file(tmp_path, 0).write_bytes(b"\x1b[31mred\x00 \xff\xfe end\n")
        tail = ending.log_tail(tmp_path, 0) or ""
        assert "red" in tail
        assert tail.endswith(" end")
        assert all(c.isprintable() for c in tail)

    def test_a_rank_that_said_nothing_has_none(self, tmp_path: Path) -> None:
        assert ending.log_tail(tmp_path, 0) is None
        log_file(tmp_path, 0).touch()
        assert ending.log_tail(tmp_path, 0) is None


class TestNotFinite:
    @pytest.mark.parametrize("result", [CheckResult.PASS, CheckResult.NOT_APPLICABLE])
    def test_a_finite_loss_or_none_is_no_end(self, result: CheckResult) -> None:
        check = Check(name="loss_finite", result=result, evidence="first 2.3, last 2.1")
        assert ending.not_finite(a_launch(audit=[check])) is None

    def test_a_loss_that_is_no_number_ends_the_case_as_nan(self) -> None:
        check = Check(name="loss_finite", result=CheckResult.FAIL, evidence="first 2.3, last nan")
        end = ending.not_finite(a_launch(audit=[check]), "the last lines")
        assert end is not None
        assert end.log_tail == "the last lines"
        assert end.remedy is not None
        assert end.outcome is Outcome.NAN
        assert end.reason == "the loss is not finite: first 2.3, last nan"
