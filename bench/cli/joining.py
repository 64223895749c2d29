"""`bench run --nodes N`: where the nodes of a run meet, and what this one is among them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.backends.host import nodes_stand_in
from bench.backends.placed import SRUN, Placed, meeting_place
from bench.cli.stopping import stop_on_signals
from bench.run import meeting as meetings
from bench.run.exits import EXIT_CASE, EXIT_USAGE
from bench.run.following import Follower
from bench.run.launching import Start, start_here
from bench.run.meeting import JOIN_TIMEOUT_S, AloneError, Meeting, MeetingError
from bench.run.nodes import Nodes
from bench.run.plan import Planned
from bench.scenarios.errors import ScenarioError

Measure = Callable[[Sequence[int], Start], int]
"""Runs the rounds: takes the signals that have come, and what starts the ranks of a launch."""


@dataclass(frozen=True)
class Together:
    """What the command line says of the other nodes."""

    nodes: int
    node: int | None
    endpoint: str | None
    timeout_s: float | None


def meeting(asked: Together, told: Placed | None) -> Meeting:
    """Return where the nodes meet; where srun starts one command on each, it need not be said.

    Raises:
        ScenarioError: it is not said, or somebody else's launcher has started something else.
    """
    option = f"--nodes {asked.nodes}"
    if told is not None and told.launcher != SRUN:
        raise ScenarioError(
            option,
            f"has no meaning under {told.launcher}, which has started the ranks of all nodes",
            f"leave it out, or leave {told.launcher} out",
        )
    if told is not None and told.world.size != asked.nodes:
        raise ScenarioError(
            option,
            f"every node runs this command once, and srun has started {told.world.size}",
            f"start them with srun --nodes {asked.nodes} --ntasks-per-node 1",
        )
    if told is not None and told.world.nodes != asked.nodes and not nodes_stand_in():
        machines = "one machine" if told.world.nodes == 1 else f"{told.world.nodes} machines"
        raise ScenarioError(
            option,
            f"every node is a machine of its own, and srun has started its {told.world.size} tasks "
            f"on {machines}",
            f"start them with srun --nodes {asked.nodes} --ntasks-per-node 1",
        )
    alone = asked.nodes == 1
    if alone and (asked.node, asked.endpoint, asked.timeout_s) != (None, None, None):
        raise ScenarioError(
            option,
            "is this machine alone, which meets nobody",
            "leave --rdzv-endpoint, --node-rank and --join-timeout out",
        )
    if asked.node is not None and not 0 <= asked.node < asked.nodes:
        raise ScenarioError(
            f"--node-rank {asked.node}", f"is none of {asked.nodes} nodes", "count them from 0"
        )
    if asked.endpoint is not None:
        host, port = meetings.endpoint(asked.endpoint)
    elif told is not None:
        host, port = meeting_place(told, os.environ)
    elif alone:
        host, port = "localhost", 0
    else:
        raise ScenarioError(
            option,
            "needs a place at which the nodes meet",
            "give all of them --rdzv-endpoint HOST:PORT, with the first node and a port that is "
            "free there",
        )
    node = told.world.rank if asked.node is None and told is not None else asked.node
    timeout_s = JOIN_TIMEOUT_S if asked.timeout_s is None else asked.timeout_s
    return Meeting(asked.nodes, host, port, node, timeout_s)


def run(place: Meeting, planned: Sequence[Planned], measure: Measure) -> int:
    """Run this node's part, on the first one all of it; returns the exit code.

    Raises:
        ScenarioError: another node has planned otherwise, or no case needs another one.
    """
    if place.nodes > 1 and all(case.case.knobs.nodes == 1 for case in planned):
        raise ScenarioError(
            f"--nodes {place.nodes}",
            "every case sets nodes=1, and no other node would have a part in it",
            "leave the option out, or set nodes to a larger number",
        )
    with stop_on_signals() as stopping:
        if place.nodes == 1:
            return measure(stopping, start_here)
        nodes = Nodes(place, planned)
        try:
            listening = meetings.listen(place)
            if listening is None:
                return Follower(place, planned, _say, lambda: bool(stopping)).run()
        except AloneError as error:
            _say(str(error))
            nodes.nobody_can_join(error)
            return measure(stopping, nodes.start)
        except MeetingError as error:
            print(f"bench: {error}", file=sys.stderr)
            return EXIT_CASE
        return _lead(
            nodes, lambda: nodes.gather(listening, _say, lambda: bool(stopping)), measure, stopping
        )


def _lead(
    nodes: Nodes, gather: Callable[[], None], measure: Measure, stopping: Sequence[int]
) -> int:
    code, reason = EXIT_CASE, "the first node has ended with an error, which it has printed"
    try:
        gather()
        code, reason = measure(stopping, nodes.start), ""
        return code
    except ScenarioError as error:
        code, reason = EXIT_USAGE, str(error)
        raise
    finally:
        nodes.close(code, reason or None)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
