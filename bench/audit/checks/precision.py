"""Were the products computed in the precision that was asked for, and can the device be so fast?"""

from __future__ import annotations

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding
from bench.results.record import Inspection

_NOT_LOOKED_AT = "this launch was not looked into"
_WANTED = {
    "fp32": ("fp32", "fp32"),
    "tf32": ("fp32", "tf32"),
    "amp-bf16": ("bf16", "bf16"),
    "amp-fp16": ("fp16", "fp16"),
    "bf16": ("bf16", "bf16"),
    "bf16-env": ("bf16", "bf16"),
    "fp8-tensorwise": ("fp8", "bf16"),
    "fp8-rowwise": ("fp8", "bf16"),
}
"""The type of the products' operands that each precision stands for, and what they round to."""
_CAST_LATER = {
    "bf16-env": "XLA_USE_BF16 acts where the graph is handed over, so its types are not judged"
}
_ROUNDED_UNSEEN = "which look the same whether or not they are rounded further"
_CAST_BY_COMPILER = {"bf16": "bf16", "fp16": "fp16", "tf32": "tf32", "fp8_e4m3": "fp8"}
"""What a product rounds to, for each type to which a compiler casts once it has the graph, which
itself still holds what the program asks for."""
_WIDER = {
    "bf16": frozenset({"fp32", "fp64"}),
    "fp16": frozenset({"fp32", "fp64"}),
    "fp8": frozenset({"bf16", "fp32", "fp64"}),
}
"""What may stand beside the type that was asked for."""
_LEAST_SHARE = 0.5


def precision_ran(evidence: Evidence) -> Finding:
    """The products ran in the precision that was asked for, by two witnesses.

    The first is the types of the operands of every matrix product and convolution in a step. For
    fp32 and tf32 all of them must be float32 (whole numbers aside). For amp-bf16 and bf16 none may
    be narrower than bfloat16, and at least half must be bfloat16; for amp-fp16 the same of fp16.
    Autocast casts every product of a ViT and of a ResNet, forward and backward, but attention that
    is not fused multiplies in float32 when its inputs are bfloat16, which is up to half of the
    products of a transformer. An autocast that does nothing leaves none. For fp8 at least
    half must be float8: the linear layers are, while attention and the classifier stay in bfloat16.
    The second witness is a product of known float32 matrices under the same settings: the format to
    which it rounds shows what no type does: TF32, or a compiler that casts. There the first witness
    can only show that something else was asked for, and the second must be heard. A product that
    comes back as no number fails, whatever was asked for.
    """
    found, asked = evidence.inspection, evidence.knobs.precision
    if found is None:
        return NA, _NOT_LOOKED_AT
    if asked not in _WANTED:
        return NA, f"nothing is known about the products of precision={asked}"
    operands, rounded = _WANTED[asked]
    named, cast = str(asked), evidence.knobs.neuron.auto_cast_type
    if cast is not None:
        named, rounded = f"{asked} cast to {cast} by the compiler", _CAST_BY_COMPILER[cast]
    graph, in_graph = _graph(found, operands)
    if asked in _CAST_LATER:
        graph, in_graph = None, f"{in_graph} ({_CAST_LATER[asked]})"
    product, computed = _product(found, rounded)
    if cast is not None or asked == "tf32":
        graph, in_graph = None if graph else graph, f"{in_graph} ({_ROUNDED_UNSEEN})"
        # A product that was computed, and that rounds to nothing known, did not round as asked.
        product = False if product is None and found.matmul_finite else product
    text = f"asked {named}: {in_graph}; {computed}"
    if graph is None and product is None:
        return NA, text
    return (FAIL if False in (graph, product) else PASS), text


def flops_below_peak(evidence: Evidence) -> Finding:
    """The device did no more than it can do.

    The model's operations for a sample, times the samples per second of one device, must stay below
    the published peak of exactly this device in the type of the products: in the fastest, where
    there are several. A clock that stops too early, or steps that never ran, can put it above. A
    device that is not in the table is not
    judged, and never by the peak of another one.
    """
    if not evidence.peaks:
        found = evidence.inspection
        if found is None or (found.matmul_types is None and found.matmul_format is None):
            return NA, _NOT_LOOKED_AT
        return NA, "no peak is known for this device in every type of its products"
    if evidence.flops_per_sample is None or evidence.samples_per_s is None:
        return NA, "the operations of a sample are not known"
    peak = max(evidence.peaks, key=lambda peak: peak.flops_per_s)
    achieved = evidence.flops_per_sample * evidence.samples_per_s
    text = (
        f"{achieved / 1e12:.4g} TFLOP/s on a device, {achieved / peak.flops_per_s:.1%} of the "
        f"{peak.flops_per_s / 1e12:.4g} TFLOP/s of {peak.device} in {peak.dtype} ({peak.source})"
    )
    return (PASS if achieved < peak.flops_per_s else FAIL), text


def _graph(found: Inspection, wanted: str) -> tuple[bool | None, str]:
    """Return whether the types of the step's products are as wanted, and which they are."""
    types = found.matmul_types
    if not types:
        why = [reason for reason in found.skipped if reason.startswith("products: ")]
        return None, why[0] if why else "products: none was seen"
    counted = ", ".join(f"{count} in {name}" for name, count in sorted(types.items()))
    text = f"products of a period: {counted}, counted in {found.matmul_source}"
    if wanted == "fp32":
        return set(types) == {"fp32"}, text
    share = types.get(wanted, 0) / sum(types.values())
    return set(types) <= _WIDER[wanted] | {wanted} and share >= _LEAST_SHARE, text


def _product(found: Inspection, wanted: str) -> tuple[bool | None, str]:
    """Return whether the known product rounds as wanted, and how it does."""
    if found.matmul_finite is False:
        return False, "a known product came back as NaN or infinity"
    if found.matmul_format is None and found.matmul_error is not None and wanted == "fp32":
        # Of known formats fp32 keeps the most digits: what keeps fewer is none of them, nor fp32.
        return False, (
            f"a known product rounds further than fp32, to no format that is known (relative error "
            f"{found.matmul_error:.1e})"
        )
    if found.matmul_format is None:
        rounds = "rounds to no format that is known"
        return None, f"a known product {rounds if found.matmul_finite else 'was not computed'}"
    error = "" if found.matmul_error is None else f" (relative error {found.matmul_error:.1e})"
    return found.matmul_format == wanted, f"a known product rounds to {found.matmul_format}{error}"
