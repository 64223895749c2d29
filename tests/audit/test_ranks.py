"""Whether ranks train one model together, and whether what is offloaded saves memory."""

from __future__ import annotations

from typing import Any

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

    def test_where_updates_are_shared_out_equal_weights_alone_prove_nothing(self) -> None:
        sharded: dict[str, Any] = {"knobs": TWO, "weights_agree": True, "shards_updates": True}
        check = found("ranks_agree", **sharded)
        assert (check.result, check.evidence) == (
            NA,
            "weights are equal over the ranks, as they always are where updates are shared out; "
            "exchange: only the first launch looks whether ranks hear of each other",
        )
        untold = Inspection(skipped=["gradients: no", "exchange: an update was skipped"])
        check = found("ranks_agree", **sharded, inspection=untold)
        assert check.result is NA
        assert check.evidence.endswith("; exchange: an update was skipped")
        heard = Inspection(gradient_heard=0.25)
        assert found("ranks_agree", **sharded, inspection=heard).result is PASS
        assert found("ranks_agree", **{**sharded, "weights_agree": False}).result is FAIL

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


class TestNodesApart:
    FOUR = knobs(processes=4, nodes=2)

    def test_every_node_is_a_machine(self) -> None:
        check = found("nodes_apart", knobs=self.FOUR, machines=2)
        assert (check.result, check.evidence) == (PASS, "2 nodes on 2 machines")
        assert check.weight is Weight.REMARK

    def test_nodes_that_share_one_are_told(self) -> None:
        check = found("nodes_apart", knobs=self.FOUR, machines=1)
        assert check.result is FAIL
        assert check.evidence.startswith("2 nodes on 1 machine: ")

    def test_it_says_nothing_of_one_node_or_where_nobody_can_tell(self) -> None:
        assert found("nodes_apart", knobs=TWO).result is NA
        assert found("nodes_apart", knobs=self.FOUR, machines=None).result is NA


class TestDevices:
    PAIR = knobs(engine="spmd")

    def test_equal_weights_on_all_devices_of_a_process_pass(self) -> None:
        check = found("ranks_agree", knobs=self.PAIR, weights_agree=True)
        assert (check.result, check.evidence) == (PASS, "weights are equal over the devices")
        assert found("ranks_agree", knobs=self.PAIR, weights_agree=False).result is FAIL
        assert found("ranks_agree", knobs=self.PAIR, weights_agree=None).result is NA

    def test_without_a_proof_of_their_exchange_they_fail(self) -> None:
        assert found("collectives_real", knobs=self.PAIR).result is FAIL
        assert found("collectives_real", knobs=self.PAIR, collectives="sum").result is PASS

    def test_the_batch_of_a_process_is_that_of_all_its_devices(self) -> None:
        seen = {"knobs": self.PAIR, "batch_sizes": frozenset({16}), "samples": 960}
        check = found("batch_as_asked", **seen)
        assert check.result is PASS
        assert check.evidence.endswith("asked 16 (8 on each of 2 devices); 960 samples")
        assert found("batch_as_asked", knobs=self.PAIR).result is FAIL

    @pytest.mark.parametrize(("virtual", "result"), [(False, PASS), (True, FAIL), (None, NA)])
    def test_virtual_ones_are_told_in_the_row(self, virtual: bool | None, result: str) -> None:
        check = found("devices_real", knobs=self.PAIR, actual={"virtual_devices": virtual})
        assert check.result is result
        assert check.weight is Weight.REMARK
        if virtual:
            assert check.evidence.startswith("2 virtual devices share the cores of one CPU: ")

    def test_one_device_for_each_process_is_none_of_its_business(self) -> None:
        assert found("devices_real", knobs=TWO).result is NA


class TestOffloadSaves:
    OFFLOADED = knobs(engine="fsdp", fsdp=FsdpKnobs(offload="cpu"))
    IN_FILES = knobs(
        engine="deepspeed", zero={"stage": 3, "offload_optimizer": "nvme", "offload_param": "nvme"}
    )

    @pytest.mark.parametrize(("own_memory", "result"), [(True, PASS), (False, FAIL), (None, NA)])
    def test_it_saves_where_the_device_has_a_memory_of_its_own(
        self, own_memory: bool | None, result: str
    ) -> None:
        actual = {"own_memory": own_memory, "fsdp.offload": "cpu"}
        check = found("offload_saves", knobs=self.OFFLOADED, actual=actual)
        assert check.result is result
        assert check.weight is Weight.REMARK
        if own_memory is not None:
            assert check.evidence.startswith("fsdp.offload=cpu")

    @pytest.mark.parametrize("where", ["none", None])
    def test_it_fails_where_the_parts_were_not_found_there(self, where: str | None) -> None:
        actual = {"own_memory": True, "fsdp.offload": where}
        check = found("offload_saves", knobs=self.OFFLOADED, actual=actual)
        text = f"fsdp.offload=cpu; found fsdp.offload={where}"
        assert (check.result, check.evidence) == (FAIL, text)

    def test_files_save_memory_on_a_processor_as_well(self) -> None:
        kept = {"zero.offload_optimizer": "nvme", "zero.offload_param": "nvme"}
        actual = {"own_memory": False, **kept}
        assert found("offload_saves", knobs=self.IN_FILES, actual=actual).result is PASS
        actual["zero.offload_param"] = "cpu"
        assert found("offload_saves", knobs=self.IN_FILES, actual=actual).result is FAIL

    def test_it_says_nothing_where_nothing_is_offloaded(self) -> None:
        assert found("offload_saves").result is NA
        assert found("offload_saves", knobs=knobs(engine="fsdp")).result is NA
