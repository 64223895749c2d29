"""Do the ranks train one model together, where they were asked to, and does offloading save memory?

Apart from the engine's own settings, which `as_asked` compares.
"""

from __future__ import annotations

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding

_UNHEARD = "exchange: only the first launch looks whether ranks hear of each other"


def ranks_agree(evidence: Evidence) -> Finding:
    """After the windows all ranks have the same weights, and each hears of the others.

    Ranks that do not exchange their gradients are faster, and train as many models as there are
    ranks. A sample of every parameter, gathered where it is sharded, must be equal over the ranks
    to the last bit. Where an engine shares updates out, that alone would miss it: each part of the
    weights belongs to one rank, and equal weights prove nothing. So in the first launch the first
    and then the last rank alone is given a loss, in steps that are not timed, and the optimizers of
    all ranks must be given a gradient.
    """
    knobs = evidence.knobs
    if knobs.devices == 1:
        return NA, "one process"
    if evidence.weights_agree is None:
        return NA, "inference trains nothing"
    if not evidence.weights_agree:
        return FAIL, "weights differ"
    told = f"weights are equal over the {'ranks' if knobs.processes > 1 else 'devices'}"
    found = evidence.inspection
    if found is None or found.gradient_heard is None:
        if not evidence.shards_updates:
            return PASS, told
        reasons = [] if found is None else found.skipped
        why = next((reason for reason in reasons if reason.startswith("exchange: ")), None)
        return NA, f"{told}, as they always are where updates are shared out; {why or _UNHEARD}"
    text = (
        f"{told}; least gradient norm while another rank alone has a loss: "
        f"{found.gradient_heard:.3g}"
    )
    return (PASS if found.gradient_heard > 0 else FAIL), text


def devices_real(evidence: Evidence) -> Finding:
    """The devices that share a batch are devices, and not parts of one processor.

    XLA makes as many virtual devices of a host's processors as it is asked for. They compute what
    several devices would, and in the time of the one that they are.
    """
    devices, virtual = evidence.knobs.devices_per_process, evidence.actual.get("virtual_devices")
    if devices == 1:
        return NA, "one device for each process"
    if virtual is None:
        return NA, "the device does not tell whether it is several"
    if not virtual:
        return PASS, f"{devices} devices of their own"
    return FAIL, (
        f"{devices} virtual devices share the cores of one CPU: the row shows that they compute "
        f"what one does, and not the speed of {devices}"
    )


def nodes_apart(evidence: Evidence) -> Finding:
    """Every node of the launch is a machine of its own.

    Ranks of one machine share its processors and its memory, and nothing that they exchange goes
    over a network. Such a row is not as it was asked for, unless the nodes were said to stand for
    machines, as in a test (BENCH_NODES_ON_ONE_MACHINE=1).
    """
    nodes, machines = evidence.knobs.nodes, evidence.machines
    if nodes == 1:
        return NA, "one node"
    if machines is None:
        return NA, "this system does not tell one machine from another"
    told = f"{nodes} nodes on {machines} {'machine' if machines == 1 else 'machines'}"
    if machines == nodes:
        return PASS, told
    return FAIL, f"{told}: what this row says of several nodes was not measured over a network"


def offload_saves(evidence: Evidence) -> Finding:
    """What is offloaded was found where it is to lie, outside of the device's memory.

    Only then does it make room on the device; how much, the peak memory of the row says beside that
    of a row without. On a processor the host's memory is the device's own: what is kept there saves
    nothing, and shows only that it computes the same.
    """
    knobs, actual = evidence.knobs, evidence.actual
    own_memory = actual.get("own_memory")
    if not knobs.offloaded:
        return NA, "nothing is offloaded"
    astray = [name for name, where in knobs.offloaded.items() if actual.get(name) != where]
    if astray:
        return FAIL, f"{knobs.offloads}; found {astray[0]}={actual.get(astray[0])}"
    if "cpu" not in knobs.offloaded.values():
        return PASS, f"{knobs.offloads}, where it was found"
    if own_memory is None:
        return NA, "the device does not tell whether its memory is the host's"
    if own_memory:
        return PASS, f"{knobs.offloads}, where it was found; the device has a memory of its own"
    return FAIL, (
        f"{knobs.offloads}, and the device's memory is the host's: the row shows what it costs in "
        "speed, and not what it saves"
    )
