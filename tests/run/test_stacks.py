"""Which rank of a hung launch waits for the others, told by the stacks in its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.run import stacks
from bench.worker.job import log_file

HANGS = """\
Current thread 0x00007f1c (most recent call first):
  File "/home/me/model.py", line 12 in forward
  File "/opt/torch/nn/modules/module.py", line 1784 in _call_impl
"""
EXCHANGES = """\
warming up
Thread 0x00007f2a (most recent call first):
  File "/home/me/loader.py", line 3 in read

Current thread 0x00007f1c (most recent call first):
  File "/opt/torch/autograd/graph.py", line 865 in _engine_run_backward
  File "/home/me/model.py", line 12 in backward
"""
AGREES = """\
Current thread 0x00007f1c (most recent call first):
  File "/opt/torch/distributed/distributed_c10d.py", line 3007 in all_reduce
  File "/opt/bench/worker/peers.py", line 66 in most
"""
FENCE = """\
Current thread 0x00007f1c (most recent call first):
  File "/opt/torch/cuda/__init__.py", line 1080 in synchronize
  File "/opt/bench/backends/cuda_device.py", line 58 in fence
  File "/opt/bench/workload/step.py", line 83 in fence
  File "/opt/bench/measure/windows.py", line 180 in _window
"""
READS_THE_LOSS = """\
Current thread 0x00007f1c (most recent call first):
  File "/opt/bench/worker/headline.py", line 215 in read_loss
"""
SCALES = """\
Current thread 0x00007f1c (most recent call first):
  File "/opt/torch/amp/grad_scaler.py", line 351 in <genexpr>
  File "/opt/torch/amp/grad_scaler.py", line 351 in _maybe_opt_step
"""


def logs(folder: Path, *texts: str) -> range:
    for rank, text in enumerate(texts):
        log_file(folder, rank).write_text(text, encoding="utf-8")
    return range(len(texts))


def test_the_one_that_does_not_come_to_the_collective_is_astray(tmp_path: Path) -> None:
    waits = stacks.waiting(tmp_path, logs(tmp_path, EXCHANGES, HANGS, AGREES))
    assert waits == {0: True, 1: False, 2: True}
    assert stacks.astray(waits) == 1


@pytest.mark.parametrize("stack", [FENCE, READS_THE_LOSS, SCALES])
def test_on_an_accelerator_a_rank_waits_where_it_needs_what_was_exchanged(
    tmp_path: Path, stack: str
) -> None:
    waits = stacks.waiting(tmp_path, logs(tmp_path, stack, HANGS))
    assert waits == {0: True, 1: False}
    assert stacks.astray(waits) == 1


def test_where_the_stacks_tell_nobody_apart_nobody_is(tmp_path: Path) -> None:
    for same in ((EXCHANGES, AGREES, FENCE), (HANGS, HANGS), (HANGS, HANGS, AGREES), (HANGS,)):
        assert stacks.astray(stacks.waiting(tmp_path, logs(tmp_path, *same))) is None
        for log in tmp_path.iterdir():
            log.unlink()


def test_a_rank_without_a_stack_is_not_judged(tmp_path: Path) -> None:
    ranks = logs(tmp_path, AGREES, "nothing but words\n")
    assert stacks.waiting(tmp_path, [*ranks, 2]) == {0: True}


def test_the_last_stack_counts_and_a_traceback_is_none(tmp_path: Path) -> None:
    traceback = 'Traceback (most recent call last):\n  File "/a.py", line 1, in <module>\n'
    assert stacks.waiting(tmp_path, logs(tmp_path, AGREES + HANGS + traceback)) == {0: False}


def test_the_tail_begins_where_the_main_thread_stands(tmp_path: Path) -> None:
    deep = "".join(f'  File "/opt/frame.py", line {n} in f\n' for n in range(99))
    logs(tmp_path, HANGS + deep, "just words\n")
    lines = (stacks.tail(tmp_path, 0) or "").splitlines()
    assert len(lines) == 30
    assert "model.py" in lines[1]
    assert stacks.tail(tmp_path, 1) == "just words"
    assert stacks.tail(tmp_path, 2) is None


def test_what_faulthandler_writes_is_understood(tmp_path: Path) -> None:
    program = """
import faulthandler, signal, threading, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
def beside(): time.sleep(60)
threading.Thread(target=beside, daemon=True).start()
def where_it_hangs(): time.sleep(60)
print("ready", flush=True)
where_it_hangs()
"""
    with log_file(tmp_path, 0).open("wb") as log:
        child = subprocess.Popen([sys.executable, "-c", program], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while b"ready" not in log_file(tmp_path, 0).read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)  # it says so right before it calls the function that is looked for
        os.kill(child.pid, signal.SIGUSR1)
        while not stacks.waiting(tmp_path, [0]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
    finally:
        child.kill()
        child.wait()
    assert stacks.waiting(tmp_path, [0]) == {0: False}
    assert "in where_it_hangs" in (stacks.tail(tmp_path, 0) or "").splitlines()[1]
