from __future__ import annotations

import os

import libneuronxla


def init() -> None:
    libneuronxla.note("torch_neuronx.xla.init")
    libneuronxla.configure_environment()
    os.environ.setdefault("ALLREDUCE_GRADIENTS_BUCKET_SIZE_MB", "50")
    os.environ.setdefault("NEURON_RT_ROOT_COMM_ID", "localhost:62182")
