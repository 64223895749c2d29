"""One row a case: what the newest record of each says, and how it compares to its first row.

What is unknown stays null, with the reason beside it where there is one. This module knows records
and their identities, and nothing of how a table looks.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.results.checks import failed, told
from bench.results.naive import naive_reading
from bench.results.offloading import offloading_of, peak_memory
from bench.results.prices import Prices, cost_of
from bench.results.record import (
    CheckResult,
    Diagnostics,
    Launch,
    Publication,
    Source,
    Straggler,
    Verdict,
    Weight,
    moment,
)
from bench.results.row import Row
from bench.results.scaling import global_batch, scaling_of
from bench.results.speedup import References, Siblings, speedup_of
from bench.results.store import Stored, printable
from bench.results.usage import energy_per_sample, flops_per_sample, model_flops_utilisation
from bench.scenarios.identity import tagged_fields
from bench.scenarios.schema import Identity, Knobs


def rows_of(stored: Iterable[Stored], prices: Prices | None = None) -> list[Row]:
    """Return one row per series, scenario and case, from the newest record of each.

    Scenarios with the newest session come first; within a scenario, newer sessions before older
    ones, and within a session the scenario's own order.

    Args:
        stored: The records.
        prices: By which a million samples cost something; null leaves the cost unknown.

    Raises:
        ScenarioError: two of the prices are for the device of one row.
    """
    newest: dict[tuple[str, str, str], _Dated] = {}
    firsts: dict[tuple[str, str, str], _Dated] = {}
    beside_each: dict[tuple[str, str, str], dict[tuple[str, str, str], _Dated]] = {}
    for item in stored:
        dated, record = _Dated(moment(item.record.created), item), item.record
        asked = record.requested
        row = (record.keys.series, asked.scenario, asked.case)
        place = (record.session, record.backend, asked.scenario)
        _keep_newer(newest, row, dated)
        _keep_newer(beside_each.setdefault(place, {}), row, dated)
        if record.position == 0:
            _keep_newer(firsts, place, dated)
    shown = _without_outdated_absences(list(newest.values()))
    references = {key: dated.stored.record for key, dated in firsts.items()}
    siblings = {
        place: sorted((d.stored.record for d in rows.values()), key=lambda r: (r.position, r.id))
        for place, rows in beside_each.items()
    }
    return [_row(dated.stored, references, siblings, prices) for dated in _in_order(shown)]


def rows_of_claims(publications: Iterable[Publication]) -> list[Row]:
    """Return the rows of published numbers: never compared, never without their source."""
    return [
        Row(
            scenario=claim.scenario,
            case=claim.case,
            backend=claim.backend,
            device=claim.device,
            processes=claim.processes,
            reason="the source gives no number" if claim.samples_per_s is None else None,
            verdict=Verdict.CLAIMED.value,
            samples_per_s=claim.samples_per_s,
            speedup_reason="a published claim is never compared by ratio",
            settings=claim.settings,
            remark=claim.remark,
            source=_citation(publication.source),
        )
        for publication in publications
        for claim in publication.claims
    ]


def beside(rows: Sequence[Row], claims: Sequence[Row]) -> list[Row]:
    """Return both, each claim after what was measured of its scenario."""
    both = [*rows, *claims]
    order = {name: place for place, name in enumerate(dict.fromkeys(row.scenario for row in both))}
    return sorted(both, key=lambda row: order[row.scenario])


@dataclass(frozen=True)
class _Dated:
    when: dt.datetime
    stored: Stored

    @property
    def order(self) -> tuple[dt.datetime, str]:
        return self.when, self.stored.record.id


def _keep_newer(
    kept: dict[tuple[str, str, str], _Dated], key: tuple[str, str, str], dated: _Dated
) -> None:
    other = kept.get(key)
    if other is None or other.order < dated.order:
        kept[key] = dated


def _without_outdated_absences(dated: Sequence[_Dated]) -> list[_Dated]:
    # Where a device was missing no series could be named; what ran there later answers the row.
    def place(item: _Dated) -> tuple[str, str, str, int]:
        record = item.stored.record
        asked = record.requested
        return asked.scenario, asked.case, record.backend, record.processes

    latest: dict[tuple[str, str, str, int], dt.datetime] = {}
    for item in dated:
        latest[place(item)] = max(item.when, latest.get(place(item), item.when))
    return [
        item
        for item in dated
        if item.stored.record.device is not None or item.when == latest[place(item)]
    ]


def _in_order(dated: Sequence[_Dated]) -> list[_Dated]:
    sessions: dict[str, dt.datetime] = {}
    scenarios: dict[str, dt.datetime] = {}
    for item in dated:
        record = item.stored.record
        for times, name in ((sessions, record.session), (scenarios, record.requested.scenario)):
            times[name] = max(item.when, times.get(name, item.when))

    def place(item: _Dated) -> tuple[float, str, float, str, str, int, str]:
        record = item.stored.record
        scenario = record.requested.scenario
        return (
            -scenarios[scenario].timestamp(),
            scenario,
            -sessions[record.session].timestamp(),
            record.session,
            record.backend,
            record.position,
            record.requested.case,
        )

    return sorted(dated, key=place)


def _row(stored: Stored, references: References, siblings: Siblings, prices: Prices | None) -> Row:
    record, statistics = stored.record, stored.record.statistics
    knobs = record.requested.knobs
    speedup = speedup_of(record, references)
    scaling = scaling_of(record, siblings)
    offloading = offloading_of(record, siblings)
    cold, warm = _compile_s(record.launches)
    health = record.health
    mfu = model_flops_utilisation(record)
    # A case that ended without a number may have launches, and their figures are not its own.
    launches = record.launches if statistics else []
    energy = energy_per_sample(launches)
    cost = None if prices is None else cost_of(record, prices)
    naive = naive_reading(launches)
    straggler = _worst_straggler(launches)
    return Row(
        scenario=record.requested.scenario,
        case=record.requested.case,
        backend=record.backend,
        device=record.device.model if record.device else None,
        flavour=record.flavour or (record.device.flavour if record.device else None),
        simulated=record.simulated,
        processes=record.processes,
        devices=record.devices,
        global_batch=global_batch(knobs),
        outcome=record.outcome.value,
        reason=record.reason,
        verdict=record.verdict.value if record.verdict else None,
        audit=_audit(record.launches),
        audit_remarks=_told(launches, Weight.REMARK),
        audit_noise=_told(launches, Weight.NOISY),
        samples_per_s=statistics.samples_per_s if statistics else None,
        samples_per_s_low=statistics.samples_per_s_low if statistics else None,
        samples_per_s_high=statistics.samples_per_s_high if statistics else None,
        speedup=speedup.value,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        speedup_noisy=speedup.noisy,
        speedup_reason=speedup.reason,
        scaling=scaling.ratio.value,
        scaling_low=scaling.ratio.low,
        scaling_high=scaling.ratio.high,
        scaling_noisy=scaling.ratio.noisy,
        scaling_series=scaling.series,
        scaling_against=scaling.against,
        scaling_reason=scaling.ratio.reason,
        offloads=knobs.offloads,
        own_memory=_own_memory(record.launches),
        offload_ratio=offloading.ratio.value,
        offload_ratio_low=offloading.ratio.low,
        offload_ratio_high=offloading.ratio.high,
        offload_noisy=offloading.ratio.noisy,
        offload_saved_bytes=offloading.saved_bytes,
        offload_against=offloading.against,
        offload_reason=offloading.ratio.reason,
        step_ms=statistics.step_ms if statistics else None,
        launches=len(record.launches),
        peak_memory_bytes=peak_memory(record),
        host_peak_rss_bytes=_largest(launch.host_peak_rss_bytes for launch in record.launches),
        compile_s=cold,
        compile_cold_s=cold,
        compile_warm_s=warm,
        loader_wait_share=_diagnosed(record.launches, lambda found: found.loader_wait_share),
        communication_share=_diagnosed(launches, lambda found: found.communication_share),
        straggler_share=straggler.share if straggler else None,
        straggler_source=straggler.source if straggler else None,
        learns=health.learns if health else None,
        loss_gap=health.loss_gap if health else None,
        learned_share=health.learned_share if health else None,
        health_reason=health.reason if health else None,
        flops_per_sample=flops_per_sample(record.launches),
        mfu=mfu.value,
        mfu_source=mfu.source,
        energy_j_per_sample=energy.value,
        energy_source=energy.source,
        cost_per_million_samples=cost.per_million if cost else None,
        currency=cost.currency if cost else None,
        cost_source=cost.source if cost else None,
        naive_samples_per_s=naive.samples_per_s if naive else None,
        naive_ratio=naive.ratio if naive else None,
        settings=_settings(record.requested.knobs, record.contents),
        remark=record.requested.remark,
        verdict_reason=record.verdict_reason,
        remedy=record.remedy,
        precision_reached=statistics.precision_reached if statistics else None,
        session=record.session,
        position=record.position,
        created=record.created,
        record=printable(stored.location),
        knobs={name: value for name, _, value in tagged_fields(record.requested.knobs)},
    )


def _audit(launches: Sequence[Launch]) -> str | None:
    wrong = failed(launches, Weight.SUSPECT)
    if wrong:
        return f"fail: {','.join(check.name for check in wrong)}"
    passed = any(c.result is CheckResult.PASS for launch in launches for c in launch.audit)
    return "pass" if passed else None


def _told(launches: Sequence[Launch], weight: Weight) -> str | None:
    """Return the failed checks of a weight, each with the figures of its first failure."""
    return "; ".join(map(told, failed(launches, weight))) or None


def _compile_s(launches: Sequence[Launch]) -> tuple[float | None, float | None]:
    # Of a state and not of a place: the launches that a resumed run took over come first.
    cold = next(
        (one.compilation.seconds for one in launches if one.compilation.cache != "warm"), None
    )
    warm = [
        one.compilation.seconds
        for one in launches
        if one.compilation.cache == "warm" and one.compilation.seconds is not None
    ]
    return cold, math.fsum(warm) / len(warm) if warm else None


def _diagnosed(
    launches: Sequence[Launch], figure: Callable[[Diagnostics], float | None]
) -> float | None:
    """Return a figure of the first launch whose diagnostics have it."""
    found = (figure(one.diagnostics) for one in launches if one.diagnostics)
    return next((value for value in found if value is not None), None)


def _own_memory(launches: Sequence[Launch]) -> bool | None:
    found = (one.actual.get("own_memory") for one in launches)
    return next((told for told in found if isinstance(told, bool)), None)


def _worst_straggler(launches: Sequence[Launch]) -> Straggler | None:
    """Return the one whose share is largest, of those that show most."""
    found = [one.straggler for one in launches if one.straggler is not None]
    telling = [one for one in found if one.source != "windows"] or found
    return max(telling, key=lambda one: one.share, default=None)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _settings(knobs: Knobs, contents: Mapping[str, str]) -> str:
    """Return the knobs that were set; beside a file's name stands the digest of what it says."""
    defaults = {name: value for name, _, value in tagged_fields(_DEFAULTS[knobs.task])}
    return ", ".join(
        f"{name}={value}" + (f" ({contents[name]})" if name in contents else "")
        for name, tag, value in tagged_fields(knobs)
        if tag is not Identity.PROTOCOL and value != defaults[name]
    )


# `infer` leaves out what only training has; its task is still worth a word.
_DEFAULTS = {
    "train": Knobs(),
    "infer": Knobs(task="infer").model_copy(update={"task": "train"}),
}


def _citation(source: Source) -> str:
    cited = f'{source.author}, "{source.title}", {source.date}: {source.locator}'
    return cited if source.url is None else f"{cited} ({source.url})"
