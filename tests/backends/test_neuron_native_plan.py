"""The planning half of TorchNeuron: the exact environment of every rung, and what is refused."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

import pytest

from bench.backends import families, host
from bench.backends.base import Backend, Precompilation, Probe, World
from bench.backends.cpu import CpuBackend
from bench.backends.cuda import CudaBackend
from bench.backends.neuron import NeuronBackend
from bench.backends.neuron_native_environment import of_rank
from bench.backends.xla import XlaBackend
from bench.scenarios.compose import load
from bench.scenarios.expand import expand
from bench.scenarios.schema import Case, Knobs


def installed(name: str) -> str:
    if name != "torch-neuronx":
        raise importlib.metadata.PackageNotFoundError(name)
    return "2.14.3.0.1"


BACKEND = NeuronBackend(version=installed)


def probe(family: str = "trn2", **changes: Any) -> Probe:
    told = {"backend": "neuron", "available": True, "device_count": 4, "flavour": "native"}
    return Probe.model_validate(told | {"facts": {"family": family}} | changes)


TRN2 = probe()
SIMULATED = probe(flavour="native, simulated", simulated=True)


def knobs(**values: Any) -> Knobs:
    return Knobs.model_validate(values)


def refused(case: Knobs, found: Probe = TRN2) -> dict[str, str]:
    return {r.knob: r.reason for r in families.refusals(BACKEND, case, found)}


@pytest.fixture(autouse=True)
def nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("NEURON", "TORCH_NEURONX", "XLA", "PJRT", "TORCHELASTIC")):
            monkeypatch.delenv(name)


def ladder(processes: int) -> list[Case]:
    scenario = load("vit-ladder", [f"processes={processes}"])
    return expand(scenario, sweeps={}, refused=lambda case: bool(refused(case)))


PLAIN = {
    "NEURON_CC_FLAGS": "--auto-cast=none",
    "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
    "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION": "1",
    "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS": "1",
    "NEURON_LAUNCH_BLOCKING": "0",
}
RUNGS: dict[str, dict[str, str]] = {
    "baseline": PLAIN,
    "loader-worker": PLAIN,
    "batch-size": PLAIN,
    "autocast": PLAIN,
    "bf16-cast": PLAIN
    | {"NEURON_RT_STOCHASTIC_ROUNDING_EN": "1", "NEURON_RT_STOCHASTIC_ROUNDING_SEED": "0"},
    "compiler-bf16": PLAIN | {"NEURON_CC_FLAGS": "--auto-cast=all --auto-cast-type=bf16"},
    "fp8": PLAIN | {"NEURON_CC_FLAGS": "--auto-cast=all --auto-cast-type=fp8_e4m3"},
    "compiler-flags": PLAIN
    | {
        "NEURON_CC_FLAGS": "--auto-cast=none --model-type=transformer --optlevel=3",
        "NEURON_COMPILER_OPT_LEVEL": "-O3",
    },
}
REFUSED = {"bf16-everywhere": ["precision"], "steps-per-graph": ["loader.batches_per_execution"]}


def of_the_host(case: Knobs) -> dict[str, str]:
    threads = str(max(1, host.cpus_visible() // case.processes))
    chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return chosen | ({"GLOO_SOCKET_IFNAME": "lo"} if case.processes > 1 else {})


@pytest.mark.parametrize("processes", [1, 2])
def test_rungs_of_torch_xla_are_refused_and_the_others_stand_below_them(processes: int) -> None:
    cases = ladder(processes)
    assert {case.case: list(refused(case.knobs)) for case in cases} == {
        name: REFUSED.get(name, []) for name in (*RUNGS, *REFUSED)
    }
    stands_on = {case.case: case.on for case in cases}
    for rung in ("bf16-cast", "steps-per-graph", "compiler-bf16", "fp8", "compiler-flags"):
        assert stands_on[rung] == "batch-size", rung
    assert {case.knobs.engine for case in cases} == {"plain" if processes == 1 else "ddp"}


@pytest.mark.parametrize("found", [TRN2, SIMULATED], ids=["real", "simulated"])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("rung", RUNGS)
def test_the_environment_of_every_rung_is_exactly_this(
    rung: str, processes: int, found: Probe
) -> None:
    (case,) = [case for case in ladder(processes) if case.case == rung]
    expected = RUNGS[rung] | of_the_host(case.knobs)
    assert BACKEND.environment(case.knobs, found) == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_gets_a_core_and_the_group_finds_the_rest_by_itself(rank: int) -> None:
    world = World(rank=rank, size=2, local_rank=rank)
    assert of_rank(world, {}) == {"NEURON_RT_VISIBLE_CORES": str(rank)}
    shown = {"NEURON_RT_VISIBLE_CORES": "4-5"}
    assert of_rank(world, shown) == {"NEURON_RT_VISIBLE_CORES": str(4 + rank)}


def test_under_torchrun_a_rank_gets_its_core_too() -> None:
    world = World(rank=1, size=2, local_rank=1)
    assert of_rank(world, {"TORCHELASTIC_RUN_ID": "x"}) == {"NEURON_RT_VISIBLE_CORES": "1"}


def test_one_rank_gets_one_core_and_a_rank_without_one_is_an_error() -> None:
    assert of_rank(World(), {}) == {"NEURON_RT_VISIBLE_CORES": "0"}
    with pytest.raises(ValueError, match="local rank 1 has no core"):
        of_rank(World(rank=1, size=2, local_rank=1), {"NEURON_RT_VISIBLE_CORES": "0"})


def test_logical_cores_are_said_to_compiler_and_runtime() -> None:
    chosen = BACKEND.environment(knobs(neuron={"lnc": 1}), TRN2)
    assert chosen["NEURON_LOGICAL_NC_CONFIG"] == "1"
    assert chosen["NEURON_CC_FLAGS"] == "--auto-cast=none --logical-nc-config=1"
    assert "NEURON_LOGICAL_NC_CONFIG" not in BACKEND.environment(knobs(), TRN2)


def test_nothing_of_torch_xla_is_set() -> None:
    chosen = BACKEND.environment(knobs(precision="bf16"), TRN2)
    assert not [name for name in chosen if name.startswith(("XLA", "PJRT"))]


def test_an_ordinary_case_is_refused_nothing() -> None:
    assert refused(knobs()) == {}
    assert refused(knobs(compile="neuron", precision="amp-bf16", optimizer_impl="fused")) == {}
    assert refused(knobs(precision="bf16", activation_checkpointing=True, processes=2)) == {}
    assert refused(knobs(neuron={"lnc": 1, "target": "trn2", "optlevel": 1})) == {}
    assert refused(knobs(data={"source": "device"}, gradient_accumulation=2)) == {}


@pytest.mark.parametrize(
    ("values", "knob", "word"),
    [
        ({"precision": "bf16-env"}, "precision", "torch_xla alone"),
        ({"precision": "tf32"}, "precision", "auto_cast_type=tf32"),
        ({"precision": "amp-fp16"}, "precision", "loss scaler"),
        ({"precision": "fp8-rowwise"}, "precision", "auto_cast_type=fp8_e4m3"),
        ({"compile": "inductor"}, "compile", "compile=neuron does"),
        ({"compile": "openxla"}, "compile", "torch_xla's compiler"),
        (
            {"loader": {"batches_per_execution": 2}},
            "loader.batches_per_execution",
            "no graph is cut",
        ),
        ({"loader": {"prefetch": 2}}, "loader.prefetch", "data.prefetch"),
        ({"loader": {"device_prefetch": 2}}, "loader.device_prefetch", "data.prefetch"),
        ({"loader": {"transfer_threads": 2}}, "loader.transfer_threads", "data.prefetch"),
        ({"neuron": {"functionalization": True}}, "neuron.functionalization", "torch_xla alone"),
        ({"neuron": {"model_type": "unet-inference"}}, "neuron.model_type", "for inference"),
        ({"neuron": {"target": "inf2"}}, "neuron.target", "this machine is trn2"),
        (
            {"precision": "amp-bf16", "neuron": {"auto_cast": "all"}},
            "neuron.auto_cast",
            "switched off under autocast",
        ),
        ({"optimizer_impl": "capturable"}, "optimizer_impl", "CUDA graphs"),
        ({"channels_last": True}, "channels_last", "contiguous"),
        ({"data": {"pin_memory": True}}, "data.pin_memory", "page-locked"),
        ({"threads": 2}, "threads", "NeuronCores"),
        ({"processes": 5}, "processes", "4 NeuronCores are visible"),
    ],
)
def test_what_is_refused_has_its_reason(values: dict[str, Any], knob: str, word: str) -> None:
    found = refused(knobs(**values))
    assert list(found) == [knob]
    assert word in found[knob]


def test_fp16_without_an_update_needs_no_scaler() -> None:
    assert refused(knobs(task="infer", precision="amp-fp16")) == {}


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("NEURON_CC_FLAGS", "--auto-cast=matmult", "neuron.auto_cast"),
        ("NEURON_CC_FLAGS", "--cache_dir=/x", "private to a run"),
        ("NEURON_COMPILER_OPT_LEVEL", "-O1", "neuron.optlevel"),
    ],
)
def test_what_a_knob_stands_for_is_not_taken_from_the_environment(
    name: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = refused(knobs())
    assert list(found) == [name]
    assert word in found[name]


def test_torch_xlas_variable_in_the_environment_concerns_nobody_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XLA_USE_BF16", "1")
    assert refused(knobs(precision="amp-bf16")) == {}


def test_nothing_is_cut_and_nothing_is_queued_on_the_device() -> None:
    assert BACKEND.first_cut(knobs()) == 0
    assert BACKEND.prefetched(knobs()) == 0
    assert BACKEND.prefetched(knobs(data={"workers": 2})) == 4


def test_a_window_holds_so_many_steps_that_drawing_the_first_batch_is_a_hundredth() -> None:
    assert BACKEND.least_periods(knobs()) == 100
    assert BACKEND.least_periods(knobs(data={"source": "device"})) == 10


@pytest.mark.parametrize("found", [TRN2, SIMULATED])
def test_compiled_programs_are_kept_for_the_run_alone(found: Probe) -> None:
    assert BACKEND.compile_cache(knobs(), found, "folder") == {
        "TORCH_NEURONX_NEFF_CACHE_DIR": "folder/neff",
        "TORCH_NEURONX_NEFF_LOCAL_CACHE_DIR": "folder/neff-local",
        "TORCH_NEURONX_HLO_CACHE_DIR": "folder/hlo",
    }


def test_cases_are_compiled_beforehand_on_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def planned() -> Precompilation:
        found = BACKEND.precompilation(knobs(), TRN2)
        assert isinstance(found, Precompilation)
        return found

    assert planned().devices == ("0", "1", "2", "3")
    assert planned().shown_by == "NEURON_RT_VISIBLE_CORES"
    assert not planned().notes
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "2-3")
    assert planned().devices == ("2", "3")


def test_beside_cores_that_are_made_otherwise_none_is_compiled_for() -> None:
    """Core 2 of LNC=1 is a half of core 1 of LNC=2."""
    assert BACKEND.precompilation(knobs(neuron={"lnc": 1}), TRN2) == Precompilation(alone=True)


def test_a_core_is_never_shared_by_two_launches() -> None:
    assert not BACKEND.two_at_once(knobs(), TRN2)


@pytest.mark.parametrize("backend", [CpuBackend(), CudaBackend(), XlaBackend()])
def test_its_compiler_is_refused_by_the_others(backend: Backend) -> None:
    found = families.refusals(
        backend, knobs(compile="neuron"), next(iter(backend.devices().values()))
    )
    assert [(r.knob, r.value) for r in found] == [("compile", "neuron")]
    assert "TorchNeuron" in found[0].reason


def test_the_flavour_that_was_found_plans_whichever_is_installed_here() -> None:
    of_xla = Probe(
        backend="neuron",
        available=True,
        device_count=2,
        flavour="xla",
        facts={"pjrt": "NEURON", "family": "trn2"},
    )
    case = knobs(loader={"batches_per_execution": 2})
    assert list(refused(case)) == ["loader.batches_per_execution"]
    assert refused(case, of_xla) == {}
    assert BACKEND.environment(case, of_xla)["PJRT_DEVICE"] == "NEURON"


def test_the_devices_that_settings_describes_are_of_both_flavours() -> None:
    case = knobs(loader={"batches_per_execution": 2})
    told = {title: refused(case, found) for title, found in BACKEND.devices().items()}
    natively = [title.startswith("neuron, native") for title in told]
    assert {True, False} == set(natively)
    assert [bool(refusals) for refusals in told.values()] == natively
