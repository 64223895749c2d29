"""Do the ranks train one model together, and does what is moved off the device save it anything?"""

from __future__ import annotations

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding


def ranks_agree(evidence: Evidence) -> Finding:
    """After the windows all ranks have the same weights, and each hears of the others.

    Ranks that do not exchange their gradients are faster, and train as many models as there are
    ranks. A sample of every parameter, gathered where it is sharded, must be equal over the ranks
    to the last bit. Where weights are sharded, that alone would miss it: each part belongs to one
    rank. So the first and then the last rank alone is given a loss, in steps that are not timed,
    and the optimizers of all ranks must be given a gradient.
    """
    knobs = evidence.knobs
    if knobs.processes == 1:
        return NA, "one process"
    if evidence.weights_agree is None:
        return NA, "inference trains nothing"
    found = evidence.inspection
    heard = None if found is None else found.gradient_heard
    told = ["weights are equal over the ranks" if evidence.weights_agree else "weights differ"]
    if heard is not None:
        told.append(f"least gradient norm while another rank alone has a loss: {heard:.3g}")
    good = evidence.weights_agree and (heard is None or heard > 0)
    return (PASS if good else FAIL), "; ".join(told)


def offload_saves(evidence: Evidence) -> Finding:
    """What is offloaded leaves the memory of the device.

    On a processor the host's memory is the device's own. Offloading then saves nothing and shows
    only that it computes the same.
    """
    knobs, own_memory = evidence.knobs, evidence.actual.get("own_memory")
    if knobs.offloads is None:
        return NA, "nothing is offloaded"
    if own_memory is None:
        return NA, "the device does not tell whether its memory is the host's"
    if own_memory:
        return PASS, f"{knobs.offloads}; the device has a memory of its own"
    return FAIL, (
        f"{knobs.offloads}, and the device's memory is the host's: the row shows what it costs in "
        "speed, and not what it saves"
    )
