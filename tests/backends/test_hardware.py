"""On machines with an accelerator: what the probe says of it. Run by tox -e cuda|neuron-device."""

from __future__ import annotations

import os

import pytest

from bench.backends import neuron_cores
from bench.backends.registry import Prober
from tests import devices


@pytest.mark.cuda
@pytest.mark.skipif(not devices.has_nvidia(), reason=devices.NO_NVIDIA)
def test_a_gpu_is_seen_preferred_and_described() -> None:
    prober = Prober()
    probe = prober.probe("cuda")

    assert probe.available, probe.reason
    assert prober.best() == probe
    assert probe.device_model
    assert probe.device_count >= 1
    assert isinstance(probe.facts["capability"], list)
    assert probe.facts["cuda"]
    assert probe.facts["driver"], probe.warnings


@pytest.mark.neuron
@pytest.mark.skipif(not devices.has_neuron(), reason=devices.NO_NEURON)
def test_a_neuron_core_is_seen_preferred_and_described() -> None:
    prober = Prober()
    probe = prober.probe("neuron")

    assert probe.available, f"{probe.reason}; {probe.remedy}"
    assert prober.best() == probe
    assert probe.flavour in ("xla", "native")
    assert not probe.simulated
    assert probe.device_model
    listed = neuron_cores.neuron_ls()
    assert listed is not None, "neuron-ls tells no cores: is aws-neuronx-tools installed?"
    assert probe.facts[neuron_cores.PHYSICAL] == listed
    in_one = neuron_cores.lnc(str(probe.facts["family"]), os.environ)
    assert in_one is not None
    shown = probe.facts[neuron_cores.SHOWN]
    cores = len(shown) if isinstance(shown, list) else listed // in_one
    assert probe.device_count == cores
    assert probe.facts["instance"]
    assert probe.facts["neuronx_cc"], probe.warnings
