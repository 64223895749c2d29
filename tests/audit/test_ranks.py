"""Whether ranks train one model together, and whether what is offloaded saves memory."""

from __future__ import annotations

import pytest

from bench.results.record import Inspection, Weight
from bench.scenarios.schema import FsdpKnobs
from tests.audit.honest import FAIL, NA, PASS, found, knobs

TWO = knobs(processes=2)


class TestRanksAgree:
    def test_equal_weights_and_gradients_that_are_heard_pass(self) -> None:
        heard = Inspection(gradient_heard=0.25)
        check = found("ranks_agree", knobs=TWO, weights_agree=True, inspection=heard)
        assert (check.result, check.evidence) == (
            PASS,
            "weights are equal over the ranks; least gradient norm while another rank alone has a "
            "loss: 0.25",
        )
        assert check.weight is Weight.SUSPECT

    def test_equal_weights_pass_in_a_launch_that_was_not_looked_into(self) -> None:
        check = found("ranks_agree", knobs=TWO, weights_agree=True)
        assert (check.result, check.evidence) == (PASS, "weights are equal over the ranks")

    def test_different_weights_fail(self) -> None:
        heard = Inspection(gradient_heard=0.25)
        check = found("ranks_agree", knobs=TWO, weights_agree=False, inspection=heard)
        assert check.result is FAIL
        assert check.evidence.startswith("weights differ")

    def test_a_rank_that_hears_nothing_of_the_others_fails_whatever_the_weights(self) -> None:
        deaf = Inspection(gradient_heard=0.0)
        check = found("ranks_agree", knobs=TWO, weights_agree=True, inspection=deaf)
        assert check.result is FAIL

    def test_one_process_and_inference_have_nothing_to_agree_on(self) -> None:
        assert found("ranks_agree").result is NA
        assert found("ranks_agree", knobs=TWO, weights_agree=None).result is NA


class TestOffloadSaves:
    OFFLOADED = knobs(engine="fsdp", fsdp=FsdpKnobs(offload="cpu"))

    @pytest.mark.parametrize(("own_memory", "result"), [(True, PASS), (False, FAIL), (None, NA)])
    def test_it_saves_where_the_device_has_a_memory_of_its_own(
        self, own_memory: bool | None, result: str
    ) -> None:
        actual = {"own_memory": own_memory}
        check = found("offload_saves", knobs=self.OFFLOADED, actual=actual)
        assert check.result is result
        assert check.weight is Weight.REMARK
        if own_memory is not None:
            assert check.evidence.startswith("fsdp.offload=cpu")

    def test_it_says_nothing_where_nothing_is_offloaded(self) -> None:
        assert found("offload_saves").result is NA
        assert found("offload_saves", knobs=knobs(engine="fsdp")).result is NA
