"""Neuron's XLA flavour, planned: the exact environment of every rung, and what is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from bench.backends import host
from bench.backends.base import Probe, World
from bench.backends.neuron import NeuronBackend
from bench.backends.neuron_environment import of_rank
from bench.scenarios.compose import load
from bench.scenarios.expand import expand
from bench.scenarios.schema import Case, Knobs

BACKEND = NeuronBackend()


def probe(family: str = "inf2", **changes: Any) -> Probe:
    facts = {"pjrt": "NEURON", "family": family}
    told = {"backend": "neuron", "available": True, "device_count": 2, "flavour": "xla"}
    told |= {"facts": facts}
    return Probe.model_validate(told | changes)


INF2 = probe()
SIMULATED = probe(facts={"pjrt": "CPU", "family": "inf2"}, simulated=True)


def knobs(**values: Any) -> Knobs:
    return Knobs.model_validate(values)


def refused(case: Knobs, found: Probe = INF2) -> dict[str, str]:
    return {refusal.knob: refusal.reason for refusal in BACKEND.refusals(case, found)}


@pytest.fixture(autouse=True)
def nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("NEURON", "XLA", "PJRT", "TORCHELASTIC")):
            monkeypatch.delenv(name)


def ladder(processes: int) -> list[Case]:
    scenario = load("vit-ladder", [f"processes={processes}"])
    return expand(scenario, sweeps={}, refused=lambda case: bool(refused(case)))


PLAIN = {
    "PJRT_DEVICE": "NEURON",
    "XLA_USE_BF16": "0",
    "XLA_DOWNCAST_BF16": "0",
    "XLA_DISABLE_FUNCTIONALIZATION": "1",
    "NEURON_CC_FLAGS": "--auto-cast=none",
    "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
}
ROUNDED = PLAIN | {
    "NEURON_RT_STOCHASTIC_ROUNDING_EN": "1",
    "NEURON_RT_STOCHASTIC_ROUNDING_SEED": "0",
}
BF16_ENV = ROUNDED | {"XLA_USE_BF16": "1"}
RUNGS: dict[str, dict[str, str]] = {
    "baseline": PLAIN,
    "loader-worker": PLAIN,
    "batch-size": PLAIN,
    "autocast": PLAIN,
    "bf16-everywhere": BF16_ENV,
    "bf16-cast": ROUNDED,
    "steps-per-graph": BF16_ENV,
    "compiler-bf16": PLAIN | {"NEURON_CC_FLAGS": "--auto-cast=all --auto-cast-type=bf16"},
    "fp8": PLAIN | {"NEURON_CC_FLAGS": "--auto-cast=all --auto-cast-type=fp8_e4m3"},
    "compiler-flags": BF16_ENV
    | {"NEURON_CC_FLAGS": "--auto-cast=none --model-type=transformer --optlevel=3"},
}


def of_the_host(case: Knobs) -> dict[str, str]:
    threads = str(max(1, host.cpus_visible() // case.processes))
    chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return chosen | ({"GLOO_SOCKET_IFNAME": "lo"} if case.processes > 1 else {})


@pytest.mark.parametrize("processes", [1, 2])
def test_no_rung_of_the_ladder_is_refused_and_each_stands_where_the_study_stood(
    processes: int,
) -> None:
    cases = ladder(processes)
    assert [case.case for case in cases] == list(RUNGS)
    assert [case.on for case in cases[-4:]] == ["bf16-everywhere", *["steps-per-graph"] * 3]
    assert all(refused(case.knobs) == {} for case in cases)
    assert {case.knobs.engine for case in cases} == {"plain" if processes == 1 else "ddp"}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("rung", RUNGS)
def test_the_environment_of_every_rung_is_exactly_this(rung: str, processes: int) -> None:
    (case,) = [case for case in ladder(processes) if case.case == rung]
    expected = RUNGS[rung] | of_the_host(case.knobs)
    assert BACKEND.environment(case.knobs, INF2) == expected


def test_one_core_is_chosen_for_one_rank() -> None:
    assert of_rank(World(), {}) == {
        "NEURON_RT_VISIBLE_CORES": "0",
        "NEURON_PJRT_PROCESSES_NUM_DEVICES": "1",
        "NEURON_PJRT_PROCESS_INDEX": "0",
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_two_ranks_get_a_core_each_and_know_one_another(rank: int) -> None:
    assert of_rank(World(rank=rank, size=2, local_rank=rank), {}) == {
        "NEURON_RT_VISIBLE_CORES": str(rank),
        "NEURON_PJRT_PROCESSES_NUM_DEVICES": "1,1",
        "NEURON_PJRT_PROCESS_INDEX": str(rank),
        "NEURON_RT_ROOT_COMM_ID": "localhost:62182",
        "PJRT_LOCAL_PROCESS_COUNT": "2",
        "PJRT_LOCAL_PROCESS_RANK": str(rank),
    }


@pytest.mark.parametrize(
    ("setting", "flags"),
    [
        ({"auto_cast": "none"}, "--auto-cast=none"),
        ({"auto_cast": "matmult"}, "--auto-cast=matmult --auto-cast-type=bf16"),
        (
            {"auto_cast": "matmult", "auto_cast_type": "tf32"},
            "--auto-cast=matmult --auto-cast-type=tf32",
        ),
        ({"model_type": "generic"}, "--auto-cast=none --model-type=generic"),
        ({"optlevel": 1}, "--auto-cast=none --optlevel=1"),
        ({"target": "inf2"}, "--auto-cast=none --target=inf2"),
        (
            {"mixed_precision_accumulation": True},
            "--auto-cast=none --enable-mixed-precision-accumulation",
        ),
        (
            {"mixed_precision_accumulation": False},
            "--auto-cast=none --disable-mixed-precision-accumulation",
        ),
        ({"lnc": 1}, "--auto-cast=none --logical-nc-config=1"),
    ],
)
def test_every_setting_of_the_compiler_is_an_option_and_the_cast_is_always_said(
    setting: dict[str, Any], flags: str
) -> None:
    assert BACKEND.environment(knobs(neuron=setting), INF2)["NEURON_CC_FLAGS"] == flags


def test_logical_cores_are_said_to_the_runtime_too() -> None:
    chosen = BACKEND.environment(knobs(neuron={"lnc": 1}), probe("trn2"))
    assert chosen["NEURON_LOGICAL_NC_CONFIG"] == "1"
    assert "NEURON_LOGICAL_NC_CONFIG" not in BACKEND.environment(knobs(), INF2)


@pytest.mark.parametrize(
    ("values", "rounds"),
    [
        ({}, "0"),
        ({"precision": "bf16"}, "1"),
        ({"precision": "bf16-env"}, "1"),
        ({"precision": "amp-bf16"}, "0"),
        ({"neuron": {"stochastic_rounding": True}}, "1"),
        ({"precision": "bf16", "neuron": {"stochastic_rounding": False}}, "0"),
    ],
)
def test_weights_in_bfloat16_round_by_chance_unless_told_otherwise(
    values: dict[str, Any], rounds: str
) -> None:
    chosen = BACKEND.environment(knobs(**values, seed=7), INF2)
    assert chosen["NEURON_RT_STOCHASTIC_ROUNDING_EN"] == rounds
    seed = chosen.get("NEURON_RT_STOCHASTIC_ROUNDING_SEED")
    assert seed == ("7" if rounds == "1" else None)


def test_functionalization_is_as_torch_neuronx_has_it_unless_asked_for() -> None:
    asked = BACKEND.environment(knobs(neuron={"functionalization": True}), INF2)
    assert asked["XLA_DISABLE_FUNCTIONALIZATION"] == "0"


def test_what_a_user_adds_to_the_compilers_options_comes_before_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", "--verbose=info")
    assert refused(knobs()) == {}
    flags = BACKEND.environment(knobs(), INF2)["NEURON_CC_FLAGS"]
    assert flags == "--verbose=info --auto-cast=none"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--auto-cast=matmult", "neuron.auto_cast"),
        ("--auto-cast all", "neuron.auto_cast"),
        ("-O1", "neuron.optlevel"),
        ("-O 3", "neuron.optlevel"),
        ("--verbose=info --model-type transformer", "neuron.model_type"),
        ("-lnc=2", "neuron.lnc"),
        ("--cache_dir=s3://bucket", "private to a run"),
        ("--no_cache", "private to a run"),
    ],
)
def test_what_a_knob_stands_for_is_not_taken_from_the_environment(
    flags: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", flags)
    found = refused(knobs())
    assert list(found) == ["NEURON_CC_FLAGS"]
    assert word in found["NEURON_CC_FLAGS"]


@pytest.mark.parametrize("variable", ["XLA_USE_BF16", "XLA_DOWNCAST_BF16"])
@pytest.mark.parametrize("precision", ["amp-bf16", "bf16"])
def test_autocast_or_a_cast_under_an_inherited_xla_use_bf16_is_refused(
    variable: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(knobs(precision=precision)) == {}
    monkeypatch.setenv(variable, "1")
    reason = refused(knobs(precision=precision))["precision"]
    assert "AWS warns" in reason
    assert f"{variable}=1" in reason
    assert list(refused(knobs(precision=precision))) == ["precision"]


@pytest.mark.parametrize(
    ("values", "knob", "word"),
    [
        ({"compile": "openxla"}, "compile", "torch.compile is not supported"),
        ({"compile": "inductor"}, "compile", "torch.compile is not supported"),
        ({"precision": "tf32"}, "precision", "auto_cast_type=tf32"),
        ({"precision": "amp-fp16"}, "precision", "loss scaling"),
        ({"precision": "fp8-rowwise", "compile": "none"}, "precision", "torchao"),
        (
            {"precision": "amp-bf16", "neuron": {"auto_cast": "all"}},
            "neuron.auto_cast",
            "switched off under autocast",
        ),
        (
            {"precision": "bf16-env", "neuron": {"auto_cast": "matmult"}},
            "neuron.auto_cast",
            "leaves none",
        ),
        ({"neuron": {"model_type": "unet-inference"}}, "neuron.model_type", "for inference"),
        ({"neuron": {"target": "trn1"}}, "neuron.target", "this machine is inf2"),
        ({"neuron": {"lnc": 2}}, "neuron.lnc", "came with Trainium2"),
        ({"threads": 2}, "threads", "NeuronCores"),
        ({"processes": 3}, "processes", "2 NeuronCores are visible"),
        ({"channels_last": True}, "channels_last", "layout"),
        ({"optimizer_impl": "fused"}, "optimizer_impl", "kernel"),
        ({"data": {"pin_memory": True}}, "data.pin_memory", "page-locked"),
    ],
)
def test_what_is_refused_has_its_reason(values: dict[str, Any], knob: str, word: str) -> None:
    found = refused(knobs(**values))
    assert list(found) == [knob]
    assert word in found[knob]


def test_what_only_some_families_have_is_honoured_there() -> None:
    assert refused(knobs(neuron={"lnc": 1, "target": "trn2"}), probe("trn2")) == {}
    assert refused(knobs(neuron={"target": "trn2"}), probe("trn2n")) == {}
    assert refused(knobs(neuron={"target": "inf2"})) == {}


def test_a_family_that_is_not_known_refuses_nothing_for_it() -> None:
    unknown = probe(facts={"pjrt": "NEURON", "family": None})
    assert refused(knobs(neuron={"lnc": 1, "target": "trn1"}), unknown) == {}


def test_the_simulation_has_one_process_and_the_pool_of_the_host() -> None:
    assert "do not communicate" in refused(knobs(processes=2), SIMULATED)["processes"]
    chosen = BACKEND.environment(knobs(precision="bf16-env"), SIMULATED)
    assert chosen["PJRT_DEVICE"] == "CPU"
    assert chosen["NPROC"] == str(host.cpus_visible())
    # What the compiler and the runtime would be told is the same.
    shared = {name: value for name, value in BF16_ENV.items() if name != "PJRT_DEVICE"}
    assert shared.items() <= chosen.items()


def test_the_compile_cache_is_private_to_the_run_and_none_in_the_simulation() -> None:
    kept = BACKEND.compile_cache(knobs(), INF2, "folder")
    assert kept == {"NEURON_COMPILE_CACHE_URL": "folder"}
    assert BACKEND.compile_cache(knobs(), SIMULATED, "folder") is None


def test_graphs_are_cut_as_by_torch_xla() -> None:
    assert BACKEND.first_cut(knobs(loader={"batches_per_execution": 10})) == 9
    assert BACKEND.prefetched(knobs()) == 33


def test_a_core_is_never_shared_by_two_launches() -> None:
    assert not BACKEND.two_at_once(knobs(), INF2)


def test_the_devices_it_is_for_differ_in_what_they_refuse() -> None:
    case = knobs(neuron={"lnc": 1})
    devices = {title: found for title, found in BACKEND.devices().items() if found.flavour == "xla"}
    told = {title: refused(case, found) for title, found in devices.items()}
    assert [title.split()[-1] for title, why in told.items() if not why] == ["trn2", "trn3"]
    assert [title.split()[-1] for title, why in told.items() if why] == ["inf2", "trn1", "trn1n"]
