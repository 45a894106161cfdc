"""Ratios and means over the cases of a comparison."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import engines
from benchmarks.results import CaseResult
from benchmarks.turns import STEADY


def geometric_mean(values: Iterable[float]) -> float | None:
    """Geometric mean of positive values; None for no values."""
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms)) if logarithms else None


def fastest_peer(case: CaseResult) -> float | None:
    """Best seconds of the fp32 peers on a case."""
    times = [time for peer in engines.FP32_PEERS if (time := case.minimum(peer)) is not None]
    return min(times, default=None)


def our_time(case: CaseResult) -> float | None:
    """Best seconds of our engine on a case; None also where its answer was wrong."""
    row = next((row for row in case.latencies if row.engine == engines.OURS), None)
    return None if row is None or row.failure is not None else row.minimum


def speedup(case: CaseResult) -> float | None:
    """Time of the faster fp32 peer over ours: above 1 means that we are faster."""
    ours, theirs = our_time(case), fastest_peer(case)
    return None if ours is None or theirs is None else theirs / ours


def steady_speedup(case: CaseResult) -> float | None:
    """What `speedup` would be if all engines had met the cores at one speed.

    Our share of the peak that the cores had around each visit, over the larger one of a peer.
    """
    ours, failed = case.share(engines.OURS), our_time(case) is None
    theirs = [share for peer in engines.FP32_PEERS if (share := case.share(peer)) is not None]
    return None if ours is None or failed or not theirs else ours / max(theirs)


def scaling(cases: Sequence[CaseResult], case: CaseResult, engine: str) -> float | None:
    """Time of an engine on one thread over its time on the case's number of threads."""
    for other in cases:
        if other.threads == 1 and (other.model, other.dims) == (case.model, case.dims):
            one, many = other.minimum(engine), case.minimum(engine)
            return None if one is None or many is None else one / many
    return None


def steady_scaling(cases: Sequence[CaseResult], case: CaseResult, engine: str) -> float | None:
    """What `scaling` would be if the cores together had the single one's speed each.

    From the shares of the peak that as many cores had around each visit.
    """
    for other in cases:
        if other.threads == 1 and (other.model, other.dims) == (case.model, case.dims):
            one, many = other.share(engine), case.share(engine)
            return None if one is None or many is None else case.threads * many / one
    return None


def best_speed(cases: Iterable[CaseResult], threads: int) -> float:
    """Highest speed per core on so many threads: of any case, or any probe around its blocks."""
    chosen = [case for case in cases if case.threads == threads]
    visits = [visit for case in chosen for row in case.latencies for visit in row.visits]
    probes = [max(visit.before, visit.after) / threads for visit in visits]
    return max([*probes, *(case.core_speed for case in chosen)], default=0.0)


def slow_cases(cases: Sequence[CaseResult]) -> list[CaseResult]:
    """Cases in which an engine never met the cores at full speed."""
    best = {case.threads: best_speed(cases, case.threads) for case in cases}
    return [case for case in cases if case.core_speed < STEADY * best[case.threads]]


@dataclass(frozen=True)
class Mean:
    """Geometric means of speed-ups over one group of cases; None where nothing was measured."""

    label: str
    cases: int
    over_fastest: float | None
    over_peer: dict[str, float | None]
    worst: float | None


def means(cases: Sequence[CaseResult]) -> list[Mean]:
    """Speed-ups over all cases, by number of threads, at batch 1, and by model."""
    groups = [("all cases", list(cases))]
    threads = sorted({case.threads for case in cases})
    groups += [(f"threads {n}", [case for case in cases if case.threads == n]) for n in threads]
    groups.append(("batch 1", [case for case in cases if case.dims["batch"] == 1]))
    titles = dict.fromkeys(case.title for case in cases)
    groups += [(title, [case for case in cases if case.title == title]) for title in titles]
    return [_mean(label, members) for label, members in groups if members]


def _mean(label: str, cases: Sequence[CaseResult]) -> Mean:
    speedups = [value for case in cases if (value := speedup(case)) is not None]
    over_peer = {}
    for peer in engines.FP32_PEERS:
        pairs = [(case.minimum(peer), our_time(case)) for case in cases]
        over_peer[peer] = geometric_mean(
            theirs / ours for theirs, ours in pairs if theirs is not None and ours is not None
        )
    return Mean(
        label, len(speedups), geometric_mean(speedups), over_peer, min(speedups, default=None)
    )
