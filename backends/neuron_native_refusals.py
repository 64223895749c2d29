"""What Neuron's native flavour refuses besides: TorchNeuron cuts no graphs and lacks kernels.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.backends import device_loader
from bench.backends.base import Refusal
from bench.scenarios.schema import FLOAT8, Knobs

_NO_DEVICE_LOADER = (
    "it is a queue of torch_xla's device loader; here data.workers and data.prefetch prepare "
    "batches"
)
_OTHERS_COMPILERS = {
    "inductor": "inductor generates no code for a Neuron device; compile=neuron does",
    "openxla": "openxla is torch_xla's compiler; compile=neuron is this device's",
}


def on_precision(knobs: Knobs) -> Iterator[Refusal]:
    """Refuse what TorchNeuron has no kernel for, and what torch_xla alone reads."""
    asked = knobs.precision

    def refusal(reason: str) -> Refusal:
        return Refusal(knob="precision", value=asked, reason=reason)

    if asked == "bf16-env":
        yield refusal("XLA_USE_BF16 is read by torch_xla alone")
    if asked in FLOAT8:
        yield refusal(
            "TorchNeuron has no kernel for the scaled float8 products that torchao makes: they "
            "would run on the host; the compiler's own cast is neuron.auto_cast_type=fp8_e4m3"
        )
    if asked == "amp-fp16" and knobs.task == "train":
        yield refusal(
            "TorchNeuron has no kernel for torch's loss scaler, a part of which would run on the "
            "host at every update; amp-bf16 needs no scaling"
        )


def on_compiling(knobs: Knobs) -> Iterator[Refusal]:
    """Refuse the compilers of other devices, and what serves them alone."""
    if reason := _OTHERS_COMPILERS.get(knobs.compile):
        yield Refusal(knob="compile", value=knobs.compile, reason=reason)
    if knobs.neuron.functionalization is not None:
        yield Refusal(
            knob="neuron.functionalization",
            value=knobs.neuron.functionalization,
            reason="XLA_DISABLE_FUNCTIONALIZATION is read by torch_xla alone",
        )
    if knobs.optimizer_impl == "capturable":
        yield Refusal(
            knob="optimizer_impl",
            value="capturable",
            reason="it serves CUDA graphs, which a Neuron device has not",
        )


def on_layout(knobs: Knobs) -> Iterator[Refusal]:
    """Refuse what concerns graphs of several batches, queues and the order of memory."""
    yield from device_loader.absent(
        knobs,
        no_graph="TorchNeuron executes operators, and torch.compile's graphs, as they are called: "
        "no graph is cut that could hold several batches",
        no_queue=_NO_DEVICE_LOADER,
    )
    if knobs.channels_last:
        yield Refusal(
            knob="channels_last",
            value=True,
            reason="TorchNeuron copies contiguous tensors, and neuronx-cc chooses the layout of "
            "every tensor itself",
        )
    if knobs.data.pin_memory:
        yield Refusal(
            knob="data.pin_memory",
            value=True,
            reason="TorchNeuron takes all host memory for page-locked: nothing would be locked",
        )
