"""Memory and load of a core: by a tree like the driver's, by canned documents, or by nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.backends import neuron_monitor, neuron_sysfs, neuron_telemetry
from bench.backends.neuron_monitor import Monitor, Report
from bench.backends.neuron_telemetry import Driver, Program, Untold
from tests.backends import neuron_bed
from tests.backends.neuron_bed import USED_BYTES, write

MEMORY = "stats/memory_usage/device_mem"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return neuron_bed.machine(tmp_path / "root")


@pytest.fixture(autouse=True)
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_monitor, "find", lambda: None)


class TestDriver:
    def test_cores_are_counted_by_their_numbers_and_not_by_their_names(self, root: Path) -> None:
        devices = root / "sys/devices/virtual/neuron_device"
        for name in ("neuron2/neuron_core0", "neuron10/neuron_core0", "neuron0/neuron_core10"):
            (devices / name).mkdir(parents=True)
        found = [str(core.folder.relative_to(devices)) for core in neuron_sysfs.cores(root)]
        assert found == [
            "neuron0/neuron_core0",
            "neuron0/neuron_core1",
            "neuron0/neuron_core10",
            "neuron2/neuron_core0",
            "neuron10/neuron_core0",
        ]

    def test_memory_is_the_sum_of_its_parts(self, root: Path) -> None:
        assert neuron_sysfs.cores(root)[1].memory_bytes() == USED_BYTES

    def test_a_counter_of_the_whole_comes_before_the_parts(self, root: Path) -> None:
        core = neuron_sysfs.cores(root)[0]
        write(core.folder / MEMORY / "total", "5000\n")
        assert core.memory_bytes() == 5000

    def test_a_part_that_cannot_be_read_leaves_the_sum_unknown(self, root: Path) -> None:
        core = neuron_sysfs.cores(root)[0]
        write(core.folder / MEMORY / "tensors/total", "\n")
        assert core.memory_bytes() is None

    def test_peaks_of_parts_are_not_added_up(self, root: Path) -> None:
        assert neuron_sysfs.cores(root)[0].peak_memory_bytes() is None

    def test_a_peak_counts_only_if_it_rose_after_the_reset(self, root: Path) -> None:
        core = neuron_sysfs.cores(root)[0]
        write(core.folder / MEMORY / "peak", "7000\n")
        telemetry = Driver(core)
        telemetry.reset()
        assert telemetry.peak_memory_bytes() == USED_BYTES
        assert telemetry.load()["peak_memory_is"] == neuron_telemetry.MOST_READ
        write(core.folder / MEMORY / "peak", "8000\n")
        assert telemetry.peak_memory_bytes() == 8000
        assert telemetry.load()["peak_memory_is"] == neuron_telemetry.DRIVERS_PEAK

    def test_without_the_drivers_peak_it_is_the_most_that_was_read_since_the_reset(
        self, root: Path
    ) -> None:
        core = neuron_sysfs.cores(root)[0]
        telemetry = Driver(core)

        def use(tensors: int) -> None:
            write(core.folder / MEMORY / "tensors/total", f"{tensors}\n")
            telemetry.memory_bytes()

        use(90_000)
        telemetry.reset()
        for tensors in (500, 700, 600):
            use(tensors)
        assert telemetry.peak_memory_bytes() == USED_BYTES - neuron_bed.MEMORY["tensors"] + 700

    def test_memory_that_cannot_be_read_has_no_peak(self, root: Path) -> None:
        core = neuron_sysfs.cores(root)[0]
        telemetry = Driver(core)
        telemetry.reset()
        write(core.folder / MEMORY / "tensors/total", "\n")
        assert telemetry.peak_memory_bytes() is None
        assert telemetry.load()["peak_memory_is"] is None

    def test_nothing_is_ever_written(self, root: Path) -> None:
        files = {path: path.read_text() for path in root.rglob("*") if path.is_file()}
        telemetry = neuron_telemetry.of_core(0, root)
        telemetry.reset()
        telemetry.memory_bytes()
        telemetry.load()
        assert {path: path.read_text() for path in root.rglob("*") if path.is_file()} == files

    def test_power_is_a_share_of_the_last_minute(self, root: Path) -> None:
        assert neuron_telemetry.of_core(0, root).load() == {
            "tensor_engine_percent": None,
            "peak_memory_is": None,
            "device_power_percent": 25.25,
            "device_power_percent_min": 10.0,
            "device_power_percent_max": 40.5,
        }

    @pytest.mark.parametrize(
        "text", ["POWER_STATUS_NO_DATA,0,0.00,0.00,0.00\n", "POWER_STATUS_VALID,1\n", "", None]
    )
    def test_power_without_a_valid_sample_is_unknown(self, root: Path, text: str | None) -> None:
        file = root / "sys/devices/virtual/neuron_device/neuron0/stats/power/utilization"
        file.unlink()
        if text is not None:
            write(file, text)
        assert neuron_telemetry.of_core(0, root).load()["device_power_percent"] is None


class TestTensorEngine:
    HEAD = "xrow_grp,mm_active,wl_active,idle\n"

    def show(self, root: Path, *rows: str, head: str = HEAD) -> None:
        core = root / "sys/devices/virtual/neuron_device/neuron0/neuron_core1"
        write(core / "stats/tensor_engine/pe_cntrs", head + "".join(f"{row}\n" for row in rows))

    def load(self, telemetry: Driver) -> object:
        return telemetry.load()["tensor_engine_percent"]

    @pytest.fixture
    def telemetry(self, root: Path) -> Driver:
        self.show(root, "0,1000,100,9000", "1,2000,200,8000")
        telemetry = neuron_telemetry.of_core(1, root)
        assert isinstance(telemetry, Driver)
        telemetry.reset()
        return telemetry

    def test_it_is_the_share_of_the_cycles_since_the_reset_that_multiplied(
        self, root: Path, telemetry: Driver
    ) -> None:
        # 500 + 700 of 500 + 300 + 200 and 700 + 100 + 200.
        self.show(root, "0,1500,400,9200", "1,2700,300,8200")
        assert self.load(telemetry) == pytest.approx(100 * 1200 / 2000)

    def test_an_engine_that_only_idled_is_at_zero(self, root: Path, telemetry: Driver) -> None:
        self.show(root, "0,1000,100,9700", "1,2000,200,8700")
        assert self.load(telemetry) == 0.0

    def test_counters_that_stand_still_tell_nothing(self, root: Path, telemetry: Driver) -> None:
        assert self.load(telemetry) is None

    def test_counters_that_were_cleared_meanwhile_tell_nothing(
        self, root: Path, telemetry: Driver
    ) -> None:
        self.show(root, "0,50,10,90000", "1,50,10,90000")
        assert self.load(telemetry) is None

    def test_without_a_reset_there_is_no_share(self, root: Path) -> None:
        self.show(root, "0,1,1,1")
        assert neuron_telemetry.of_core(1, root).load()["tensor_engine_percent"] is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "xrow_grp,mm_active,wl_active,idle\n",
            "xrow_grp,mm_active,idle\n0,1,2\n",
            "xrow_grp,mm_active,wl_active,idle\n0,1,2\n",
            "xrow_grp,mm_active,wl_active,idle\n0,1,2,many\n",
            # The driver's buffer was too short for all rows.
            "xrow_grp,mm_active,wl_active,idle\n0,1500,400,9200\n1,2700,300,82",
        ],
    )
    def test_another_form_of_them_or_one_cut_short_is_unknown(
        self, root: Path, telemetry: Driver, text: str
    ) -> None:
        core = neuron_sysfs.cores(root)[1]
        write(core.folder / "stats/tensor_engine/pe_cntrs", text)
        assert core.tensor_cycles() is None
        assert self.load(telemetry) is None


class TestInstance:
    def test_it_is_the_type_that_ec2_gives_the_machine(self, root: Path) -> None:
        assert neuron_sysfs.instance_type(root) == "inf2.xlarge"

    @pytest.mark.parametrize("product", ["HVM domU\n", "PowerEdge R750\n"])
    def test_a_product_that_is_none_leaves_the_drivers_family(
        self, root: Path, product: str
    ) -> None:
        write(root / "sys/devices/virtual/dmi/id/product_name", product)
        assert neuron_sysfs.instance_type(root) == "inf2"

    def test_without_either_it_is_unknown(self, tmp_path: Path) -> None:
        assert neuron_sysfs.instance_type(tmp_path) is None


class TestDocument:
    def test_a_process_and_a_core_are_found_in_it(self) -> None:
        found = neuron_monitor.read(neuron_bed.document(pid=7, core=1), pid=7, core=1)
        assert found == Report(memory_bytes=USED_BYTES, utilization_percent=42.0)

    @pytest.mark.parametrize(("pid", "core"), [(7, 0), (6, 1), (8, 1)])
    def test_another_process_or_core_says_nothing(self, pid: int, core: int) -> None:
        assert neuron_monitor.read(neuron_bed.document(pid=7, core=1), pid, core) == Report()

    def test_a_group_with_an_error_says_nothing(self) -> None:
        document = neuron_bed.document(pid=7, error="cannot read the counters")
        assert neuron_monitor.read(document, 7, 0) == Report()

    def test_a_runtime_with_an_error_says_nothing(self) -> None:
        document = json.loads(neuron_bed.document(pid=7))
        document["neuron_runtime_data"][1]["error"] = "gone"
        assert neuron_monitor.read(json.dumps(document), 7, 0) == Report()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "Expecting property name"),
            ("[]", "^not a document of neuron-monitor$"),
            ('{"error": "no driver"}', "^not a document of neuron-monitor$"),
            ('{"neuron_runtime_data": ["7"]}', "^not a document of neuron-monitor$"),
            (
                '{"neuron_runtime_data": [{"pid": 7, "report": {"memory_used": [1]}}]}',
                "^not a document of neuron-monitor$",
            ),
        ],
    )
    def test_what_is_no_document_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            neuron_monitor.read(text, 7, 0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[list[str]], Monitor]]:
    running: list[Monitor] = []

    def started(lines: list[str]) -> Monitor:
        program = neuron_bed.monitor(tmp_path / "bin", lines)
        running.append(Monitor(os.getpid(), 0, str(program)))
        return running[-1]

    yield started
    for monitor in running:
        monitor.close()


def arrived(monitor: Monitor) -> None:
    """Return once the last line has been read: the program prints all of them at once."""
    deadline = time.monotonic() + 30
    while monitor.memory_bytes() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # the lines behind the first to tell memory may leave no trace


class TestProgram:
    def test_it_tells_memory_and_the_mean_utilization_and_skips_what_is_cut_short(
        self, start: Callable[[list[str]], Monitor]
    ) -> None:
        own = [neuron_bed.document(os.getpid(), share=share) for share in (20.0, 40.0)]
        monitor = start([own[0], own[1][:50], own[1]])
        arrived(monitor)
        telemetry = Program(monitor)
        assert telemetry.memory_bytes() == USED_BYTES
        assert telemetry.peak_memory_bytes() == USED_BYTES
        assert telemetry.load() == {"core_utilization_percent": pytest.approx(30.0)}

    def test_a_reset_begins_anew(self, start: Callable[[list[str]], Monitor]) -> None:
        monitor = start([neuron_bed.document(os.getpid())])
        arrived(monitor)
        monitor.reset()
        assert Program(monitor).load() == {"core_utilization_percent": None}
        assert monitor.peak_memory_bytes() == USED_BYTES

    def test_a_document_of_another_form_does_not_silence_those_behind_it(
        self, start: Callable[[list[str]], Monitor]
    ) -> None:
        other = '{"neuron_runtime_data": ["another form"]}'
        monitor = start([other, neuron_bed.document(os.getpid())])
        arrived(monitor)
        assert monitor.memory_bytes() == USED_BYTES

    def told(self, monitor: Monitor) -> tuple[int | None, int | None, float | None]:
        return monitor.memory_bytes(), monitor.peak_memory_bytes(), monitor.utilization_percent()

    def test_what_it_told_before_it_fell_silent_is_nothing_of_now(
        self, start: Callable[[list[str]], Monitor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monitor = start([neuron_bed.document(os.getpid())])
        arrived(monitor)
        heard = monitor._told_at
        clock = SimpleNamespace(monotonic=lambda: heard + 2.9)
        monkeypatch.setattr(neuron_monitor, "time", clock)
        assert self.told(monitor) == (USED_BYTES, USED_BYTES, 42.0)
        clock.monotonic = lambda: heard + 3.1
        assert self.told(monitor) == (None, None, None)
        monitor.reset()
        clock.monotonic = lambda: heard + 2.9
        assert monitor.peak_memory_bytes() is None

    def test_nor_is_what_it_told_before_it_ended(
        self, start: Callable[[list[str]], Monitor]
    ) -> None:
        monitor = start([neuron_bed.document(os.getpid())])
        arrived(monitor)
        assert monitor.memory_bytes() == USED_BYTES
        monitor._process.kill()
        monitor._process.wait(30)
        assert self.told(monitor) == (None, None, None)

    def test_it_is_ended_with_the_device(self, tmp_path: Path) -> None:
        program = neuron_bed.monitor(tmp_path / "bin", [])
        monitor = Monitor(os.getpid(), 0, str(program))
        process = monitor._process
        Program(monitor).close()
        assert process.returncode is not None


class TestChoice:
    def test_the_drivers_files_come_first(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = neuron_bed.monitor(tmp_path / "bin", [])
        monkeypatch.setattr(neuron_monitor, "find", lambda: str(program))
        assert neuron_telemetry.of_core(1, root).source == "sysfs"

    @pytest.mark.parametrize(("core", "lnc"), [(2, 1), (0, 2)])
    def test_the_program_is_asked_where_they_do_not_tell_of_the_core(
        self, root: Path, tmp_path: Path, core: int, lnc: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = neuron_bed.monitor(tmp_path / "bin", [])
        monkeypatch.setattr(neuron_monitor, "find", lambda: str(program))
        telemetry = neuron_telemetry.of_core(core, root, lnc)
        telemetry.close()
        assert telemetry.source == "neuron-monitor"

    def test_where_nothing_tells_the_reason_is_kept(self, tmp_path: Path) -> None:
        telemetry = neuron_telemetry.of_core(0, tmp_path)
        assert isinstance(telemetry, Untold)
        assert (telemetry.source, telemetry.memory_bytes(), telemetry.peak_memory_bytes()) == (
            None,
            None,
            None,
        )
        assert "no neuron-monitor" in str(telemetry.load()["telemetry_missing"])

    def test_a_program_that_does_not_start_is_a_reason_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(neuron_monitor, "find", lambda: str(tmp_path / "gone"))
        assert "cannot be started" in str(
            neuron_telemetry.of_core(0, tmp_path).load()["telemetry_missing"]
        )
