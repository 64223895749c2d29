"""Stands for the XLA flavour of torch-neuronx: it changes the environment when it is imported.

The defaults are those that AWS documents for it, and that torch_xla itself sets where the real
package is missing.
"""

from __future__ import annotations

import os

from libneuronxla import note

note("import torch_neuronx")
if os.environ.get("XLA_USE_BF16") == "1" or os.environ.get("XLA_DOWNCAST_BF16") == "1":
    os.environ.setdefault("NEURON_RT_STOCHASTIC_ROUNDING_EN", "1")
os.environ.setdefault("XLA_DISABLE_FUNCTIONALIZATION", "1")
if "FAKE_NEURON_APPENDS" in os.environ:
    os.environ["NEURON_CC_FLAGS"] = (
        os.environ.get("NEURON_CC_FLAGS", "") + " " + os.environ["FAKE_NEURON_APPENDS"]
    )
