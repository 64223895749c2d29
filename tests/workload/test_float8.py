"""Linear layers in float8: which are converted, which sizes fit, and what is read back."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.audit.checks import as_asked, precision_ran
from bench.backends import products
from bench.backends.base import Unsupported, World
from bench.backends.cpu import CpuDevice
from bench.results.record import Inspection
from bench.scenarios.schema import Knobs
from bench.worker import actual, building
from bench.workload import float8, models
from bench.workload.float8 import Product
from bench.workload.step import TrainStep
from tests.audit.honest import FAIL, HONEST, PASS
from tests.small_vit import SMALL_VIT
from tests.worker.a_job import a_case, a_job

pytestmark = pytest.mark.torch

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason='torchao is not installed: pip install "accelbench[fp8]"',
)
BOTH = pytest.mark.parametrize("precision", ["fp8-tensorwise", "fp8-rowwise"])
TOKENS, LAYERS = 17, 8
"""Of the small ViT: 4 x 4 patches and a class token; four linear layers in each of two blocks."""


def knobs(**changes: Any) -> Knobs:
    return Knobs.model_validate(
        {**SMALL_VIT, "precision": "fp8-tensorwise", "batch_size": 16, **changes}
    )


def refusal(case: Knobs) -> str:
    """Return why the case is refused while its model is built."""
    built = models.build(case)
    with pytest.raises(Unsupported) as refused:
        float8.convert(built.module, case, built.image_size, emulate=True)
    assert refused.value.refusal.knob == "precision"
    assert refused.value.refusal.value == case.precision
    return refused.value.refusal.reason


class TestSizes:
    @pytest.mark.parametrize("rows", [16, 272, 3152])
    def test_multiples_of_16_fit(self, rows: int) -> None:
        assert Product("mlp", rows, 192, 768).misfit(16, trained=True) is None

    def test_rows_need_not_fit_where_no_weight_gets_a_gradient(self) -> None:
        assert Product("mlp", 197, 192, 768).misfit(1, trained=False) is None

    @pytest.mark.parametrize(
        ("batch_size", "tokens", "step"), [(8, 197, 16), (3, 196, 4), (5, 24, 2)]
    )
    def test_a_batch_that_does_not_fit_is_told_the_nearest_that_do(
        self, batch_size: int, tokens: int, step: int
    ) -> None:
        rows = batch_size * tokens
        reason = Product("blocks.0.mlp.fc1", rows, 192, 768).misfit(batch_size, trained=True)
        assert reason is not None
        assert f"blocks.0.mlp.fc1 multiplies {rows} x 192 by 192 x 768" in reason
        assert reason.endswith(
            f"sums over {batch_size} x {tokens} = {rows} rows; "
            f"set batch_size to a multiple of {step}"
        )
        assert step * tokens % 16 == 0

    @pytest.mark.parametrize(
        ("inputs", "outputs", "told"), [(40, 64, "40 inputs"), (64, 72, "72 outputs")]
    )
    def test_widths_that_do_not_fit_are_named(self, inputs: int, outputs: int, told: str) -> None:
        for trained in (True, False):
            reason = Product("proj", 16, inputs, outputs).misfit(1, trained=trained)
            assert reason is not None
            assert told in reason


def test_the_products_are_those_of_a_forward_pass_of_the_whole_batch() -> None:
    found = {one.layer: one for one in float8.products(knobs(batch_size=3), 32)}
    assert found["blocks.1.mlp.fc1"] == Product("blocks.1.mlp.fc1", 3 * TOKENS, 64, 256)
    assert found["head"] == Product("head", 3, 64, 10)
    assert len(found) == LAYERS + 1


def test_a_batch_that_does_not_fit_is_refused_with_the_layer_and_its_sizes() -> None:
    reason = refusal(knobs(batch_size=8))
    assert "blocks.0.attn.qkv multiplies 136 x 64 by 64 x 192" in reason
    assert "8 x 17 = 136 rows; set batch_size to a multiple of 16" in reason


def test_a_width_that_does_not_fit_is_refused_in_inference_too() -> None:
    odd = {"model_kwargs": {"patch_size": 8, "embed_dim": 40, "depth": 1, "num_heads": 2}}
    assert "40 inputs" in refusal(knobs(task="infer", **odd))


def test_a_model_without_another_linear_layer_is_refused() -> None:
    own = knobs(model="tests.workload.factories:mlp", model_kwargs={"width": 48}, image_size=4)
    assert "no linear layer but its classifier" in refusal(own)


def test_a_model_that_does_not_run_on_the_meta_device_is_refused() -> None:
    own = knobs(model="tests.workload.factories:reads_values", model_kwargs={}, image_size=4)
    assert "does not run on the meta device" in refusal(own)


def test_other_precisions_leave_the_model_alone() -> None:
    case = knobs(precision="amp-bf16", batch_size=3)
    built = models.build(case)
    same = float8.convert(built.module, case, built.image_size, emulate=True)
    assert same is built.module
    assert float8.precision_of(same) is None
    assert float8.describe(same) == {}


@needs_torchao
class TestConverted:
    @BOTH
    @pytest.mark.parametrize("emulate", [True, False])
    def test_what_was_converted_is_read_back(self, precision: str, emulate: bool) -> None:
        case = knobs(precision=precision)
        built = models.build(case)
        module = float8.convert(built.module, case, built.image_size, emulate=emulate)
        told = f"{precision} (emulated)" if emulate else precision
        assert float8.precision_of(module) == told
        assert float8.describe(module) == {"float8_layers": LAYERS, "linear_layers_kept": "head"}

    def test_layers_of_two_kinds_are_no_precision(self) -> None:
        first, second = (
            float8.convert(models.build(case).module, case, 32, emulate=True)
            for case in (knobs(), knobs(precision="fp8-rowwise"))
        )
        assert float8.precision_of(torch.nn.Sequential(first, second)) is None

    @BOTH
    def test_all_three_products_of_a_layer_are_float8_in_the_graph(self, precision: str) -> None:
        case = knobs(precision=precision)
        built = models.build(case)
        module = float8.convert(built.module, case, built.image_size, emulate=False)
        counts: Counter[str] = Counter()
        compiled: Any = torch.compile(module, backend=products.counting_backend(counts))
        images = torch.randn(16, 3, 32, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled(images).float().square().sum()
        loss.backward()
        assert counts["fp8"] == 3 * LAYERS
        assert set(counts) <= {"fp8", "bf16", "fp32"}
        looked = Inspection(matmul_types=dict(counts), matmul_format="bf16")
        evidence = dataclasses.replace(HONEST, knobs=case, inspection=looked)
        assert precision_ran(evidence)[0] is PASS

    @BOTH
    def test_inference_of_any_batch_multiplies_in_float8(self, precision: str) -> None:
        case = knobs(precision=precision, task="infer", batch_size=3)
        built = models.build(case)
        module = float8.convert(built.module, case, built.image_size, emulate=False)
        counts: Counter[str] = Counter()
        compiled: Any = torch.compile(module, backend=products.counting_backend(counts))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = compiled(torch.randn(3, 3, 32, 32))
        assert logits.shape == (3, 10)
        assert counts["fp8"] == LAYERS

    @BOTH
    def test_an_emulated_case_trains_and_says_what_it_is(
        self, precision: str, tmp_path: Path
    ) -> None:
        settings = {"precision": precision, "batch_size": 16, "optimizer": "sgd"}
        case = a_case({**settings, "learning_rate": 0.1})
        device = CpuDevice(1)
        built = building.build(a_job(tmp_path, case), World(), device)
        step = built.step
        assert isinstance(step, TrainStep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step.advance(3)
        assert built.moved is not None
        assert built.moved.share() == 1.0
        device.close()
        ran = actual.actual(
            case.knobs,
            device=device,
            engine=built.engine,
            model=built.model,
            step=step,
            proven=built.proven,
        )
        assert ran["precision"] == f"{precision} (emulated)"
        asked = actual.asked(case.knobs, built.engine, built.model, built.image_size)
        evidence = dataclasses.replace(HONEST, knobs=case.knobs, asked=asked, actual=ran)
        result, text = as_asked(evidence)
        assert result is FAIL
        assert f"asked {precision}, ran {precision} (emulated)" in text
