"""The planning half of CUDA: what it decides without torch, from canned answers of a probe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.backends import cuda
from bench.backends.base import Precompilation, Probe
from bench.backends.cuda import CudaBackend
from bench.scenarios.compose import load
from bench.scenarios.expand import expand
from bench.scenarios.schema import Knobs
from tests.run import test_cuda_runs

BACKEND = CudaBackend()
FACTS: dict[str, Any] = {
    "capability": [9, 0],
    "nccl": "2.30.7",
    "triton": True,
    "cc": "gcc",
    "torchao": True,
    "alike": True,
    "tf32_forbidden": False,
}


def probe(*, count: int = 2, flavour: str = "cuda", **facts: Any) -> Probe:
    return Probe(
        backend="cuda",
        available=True,
        device_model="NVIDIA H200",
        device_count=count,
        flavour=flavour,
        facts={**FACTS, **facts},
    )


H200 = probe()
T4 = probe(capability=[7, 5])


def knobs(**values: Any) -> Knobs:
    return Knobs.model_validate(values)


def refused(case: Knobs, found: Probe = H200) -> dict[str, str]:
    return {refusal.knob: refusal.reason for refusal in BACKEND.refusals(case, found)}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "amp-bf16", "amp-fp16", "bf16"])
def test_every_precision_of_a_current_gpu_runs(precision: str) -> None:
    assert refused(knobs(precision=precision)) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"task": "infer", "compile": "inductor", "compile_mode": "reduce-overhead"},
        {"compile": "inductor", "compile_mode": "max-autotune"},
        {"optimizer_impl": "fused", "channels_last": True},
        {"precision": "fp8-tensorwise", "compile": "inductor"},
        {"precision": "fp8-rowwise", "compile": "inductor", "compile_mode": "max-autotune"},
        {"optimizer_impl": "capturable"},
        {"data": {"workers": 4, "pin_memory": True, "prefetch": 3}},
        {"gradient_accumulation": 4, "compile": "inductor"},
        {"processes": 2, "threads": 2},
        {
            "gradient_accumulation": 4,
            "compile": "inductor",
            "compile_mode": "max-autotune-no-cudagraphs",
        },
    ],
    ids=str,
)
def test_what_a_gpu_honours_is_refused_nothing(values: dict[str, Any]) -> None:
    assert refused(knobs(**values)) == {}


@pytest.mark.parametrize(
    ("values", "found", "knob", "word"),
    [
        ({"precision": "bf16-env"}, H200, "precision", "torch_xla"),
        ({"precision": "tf32"}, T4, "precision", "7.5"),
        ({"precision": "amp-bf16"}, T4, "precision", "from 8.0 on"),
        ({"precision": "bf16"}, T4, "precision", "bfloat16"),
        ({"precision": "tf32"}, probe(tf32_forbidden=True), "precision", "NVIDIA_TF32_OVERRIDE"),
        ({"precision": "tf32"}, probe(flavour="rocm", capability=None), "precision", "AMD"),
        ({"precision": "fp8-rowwise"}, H200, "precision", "set compile=inductor"),
        (
            {"precision": "fp8-tensorwise", "compile": "inductor"},
            probe(capability=[8, 6]),
            "precision",
            "capability 8.6, and the tensor cores multiply float8 from 8.9 on",
        ),
        (
            {"precision": "fp8-tensorwise", "compile": "inductor"},
            probe(torchao=False),
            "precision",
            "accelbench[fp8]",
        ),
        (
            {"precision": "fp8-rowwise", "compile": "inductor"},
            probe(flavour="rocm", capability=None, arch="gfx90a:sramecc+:xnack-"),
            "precision",
            "MI300",
        ),
        ({"compile": "openxla"}, H200, "compile", "torch_xla"),
        ({"compile": "inductor"}, probe(triton=False), "compile", "Triton"),
        ({"compile": "inductor"}, probe(cc=None), "compile", "C compiler"),
        ({"compile": "inductor"}, probe(capability=[6, 1]), "compile", "6.1"),
        (
            {"compile": "inductor", "compile_mode": "reduce-overhead", "gradient_accumulation": 2},
            H200,
            "compile_mode",
            "169545",
        ),
        (
            {"compile": "inductor", "compile_mode": "max-autotune", "gradient_accumulation": 2},
            H200,
            "compile_mode",
            "max-autotune-no-cudagraphs",
        ),
        (
            {"loader": {"batches_per_execution": 2}},
            H200,
            "loader.batches_per_execution",
            "one by one",
        ),
        ({"loader": {"prefetch": 2}}, H200, "loader.prefetch", "data.prefetch"),
        ({"loader": {"device_prefetch": 2}}, H200, "loader.device_prefetch", "copied ahead"),
        ({"loader": {"transfer_threads": 2}}, H200, "loader.transfer_threads", "torch_xla"),
        ({"processes": 3}, H200, "processes", "2 visible"),
        ({"processes": 2}, probe(alike=False), "processes", "CUDA_VISIBLE_DEVICES"),
        ({"processes": 2}, probe(nccl=None), "engine", "NCCL"),
    ],
)
def test_what_a_gpu_cannot_do_is_refused_with_its_reason(
    values: dict[str, Any], found: Probe, knob: str, word: str
) -> None:
    refusals = refused(knobs(**values), found)
    assert list(refusals) == [knob]
    assert word in refusals[knob]


def test_fp16_is_what_an_older_gpu_has() -> None:
    assert refused(knobs(precision="amp-fp16"), T4) == {}


def test_an_amd_gpu_is_not_judged_by_a_compute_capability() -> None:
    amd = probe(flavour="rocm", capability=None)
    assert refused(knobs(precision="amp-bf16", compile="inductor"), amd) == {}
    mi300 = probe(flavour="rocm", capability=None, arch="gfx942:sramecc+:xnack-")
    assert refused(knobs(precision="fp8-rowwise", compile="inductor"), mi300) == {}


def test_the_devices_that_are_visible_stay_the_users_choice() -> None:
    chosen = BACKEND.environment(knobs(processes=2, threads=3), H200)
    assert not {"CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & {*chosen}
    assert chosen["OMP_NUM_THREADS"] == "3"


def test_no_variable_may_put_tf32_into_an_fp32_row() -> None:
    assert BACKEND.environment(knobs(), H200)["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] == "0"


def test_the_batch_that_is_copied_ahead_counts_as_prefetched() -> None:
    assert BACKEND.prefetched(knobs()) == 1
    assert BACKEND.prefetched(knobs(data={"workers": 4, "prefetch": 3})) == 13
    assert BACKEND.prefetched(knobs(data={"source": "device"})) == 0


def test_a_window_holds_more_periods_where_a_batch_is_drawn_after_the_fence() -> None:
    assert BACKEND.least_periods(knobs()) == cuda.LEAST_PERIODS
    assert BACKEND.least_periods(knobs(data={"source": "device"})) == cuda.LEAST_PERIODS_RESIDENT


def test_a_compiled_case_has_caches_of_its_own() -> None:
    caches = BACKEND.compile_cache(knobs(compile="inductor"), H200, "/run/cache")
    assert caches is not None
    assert caches["TORCHINDUCTOR_CACHE_DIR"] == "/run/cache"
    assert caches["TRITON_CACHE_DIR"] == os.path.join("/run/cache", "triton")  # noqa: PTH118
    assert BACKEND.compile_cache(knobs(), H200, "/run/cache") is None


def test_launches_on_a_gpu_do_not_take_turns() -> None:
    assert not BACKEND.two_at_once(knobs(), H200)


class TestPrecompilation:
    CASE = knobs(compile="inductor")

    def test_each_case_has_gpus_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        four = H200.model_copy(update={"device_count": 4})
        assert BACKEND.precompilation(self.CASE, four) == Precompilation(
            devices=("0", "1", "2", "3"), shown_by="CUDA_VISIBLE_DEVICES"
        )

    def test_they_are_among_those_that_the_user_shows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-5f")
        found = BACKEND.precompilation(self.CASE, H200)
        assert isinstance(found, Precompilation)
        assert found.devices == ("2", "MIG-5f")

    def test_amds_are_used_one_case_after_the_other(self) -> None:
        amd = H200.model_copy(update={"flavour": "rocm"})
        assert BACKEND.precompilation(self.CASE, amd) == Precompilation(alone=True)

    def test_eager_cases_have_nothing_to_compile(self) -> None:
        assert BACKEND.precompilation(knobs(), H200) is None


@pytest.mark.parametrize("facts", [{}, {"alike": False}])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("capability", [[6, 1], [7, 0], [7, 5], [8, 0], [8, 6], [8, 9], [10, 0]])
def test_the_runs_on_a_gpu_expect_what_is_refused_there(
    tmp_path: Path, capability: list[int], count: int, facts: dict[str, Any]
) -> None:
    file = tmp_path / "on-cuda.yaml"
    head = test_cuda_runs.HEAD.format(name="on-cuda")
    file.write_text(head + test_cuda_runs.CASES, encoding="utf-8")
    cases = expand(load(str(file), []), sweeps={}, refused=lambda _: False)
    gpu = probe(count=count, capability=capability, **facts)
    found = {case.case for case in cases if BACKEND.refusals(case.knobs, gpu)}
    # That one shows where the model is built.
    assert found | {"fp8, odd batch"} == test_cuda_runs.refused_by(gpu)
