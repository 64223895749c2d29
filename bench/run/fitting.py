"""Whether planned cases can run as this command was started, and as the user's files speak."""

from __future__ import annotations

from collections.abc import Sequence

from bench.backends import accelerate_config, users_files, zero_config
from bench.run.plan import Planned
from bench.scenarios.errors import ScenarioError


def check_nodes(planned: Sequence[Planned], nodes: int) -> None:
    """See to it that no case needs more machines than run this command.

    Raises:
        ScenarioError: one does.
    """
    for case in planned:
        if case.runnable and case.case.knobs.nodes > nodes:
            asked = case.case.knobs.nodes
            raise ScenarioError(
                case.title,
                f"it sets nodes={asked}, and this command runs on {nodes}",
                f"start `bench run` on {asked} machines, each with --nodes {asked} and the same "
                "--rdzv-endpoint HOST:PORT, or set nodes to a smaller number",
            )


def check_contents(planned: Sequence[Planned]) -> None:
    """See to it that the files of the user's that a case names do not contradict it.

    Raises:
        ScenarioError: a file cannot be read, or says something else than the case.
    """
    for item in planned:
        knobs = item.case.knobs
        for knob, file in users_files.named(knobs).items() if item.runnable else ():
            says, place = users_files.read(knob, file), f"{item.title}: {knob}={file}"
            if knob == "accelerate.config":
                accelerate_config.check(says, knobs, item.backend, place)
            else:
                zero_config.configuration(knobs, says, place)
