"""Measures every engine on every case of a plan, one model at a time."""

import itertools
import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import engines
from benchmarks.entrant import Entrant
from benchmarks.equality import Agreement, compare
from benchmarks.flops import FlopCounter
from benchmarks.machine import usable_cpus
from benchmarks.models import BenchmarkModel, Dims, case_name, model_path
from benchmarks.results import CaseResult, Latency, Loading, Visit
from benchmarks.summary import best_speed
from benchmarks.turns import STEADY, Pace, Steadiness, Times, take_turns


@dataclass(frozen=True)
class Plan:
    """What one run measures; `small` replaces every model's cases by its smallest shape.

    Cases in `known`, by model, case and number of threads, are left out; `only` names those that
    are measured, None for all. With `pin`, engines of one thread run on the first usable CPU, which
    is the one that is probed for them.
    """

    models: Sequence[BenchmarkModel]
    engines: Sequence[str]
    threads: Sequence[int]
    pace: Pace
    cache: Path
    isa: str | None = None
    small: bool = False
    timeout: float = 600.0
    known: frozenset[tuple[str, str, int]] = frozenset()
    only: frozenset[str] | None = None
    pin: bool = False

    def missing(self, model: BenchmarkModel, threads: int) -> list[Dims]:
        """Cases of a model that are to be measured."""
        known = self.known
        return [d for d in self.cases(model) if (model.name, case_name(d), threads) not in known]

    def cases(self, model: BenchmarkModel) -> Sequence[Dims]:
        """All cases of a model that the plan is about."""
        cases = (model.tiny,) if self.small else model.cases
        return [d for d in cases if self.only is None or case_name(d) in self.only]


def compare_engines(
    plan: Plan, steadiness: Steadiness, report: Callable[[str], None]
) -> Generator[CaseResult | Loading]:
    """Yield results as they arrive.

    `steadiness` probes the fp32 peak of so many cores, in GFLOP/s; `report` is told what is being
    done. All numbers of threads take turns on a case, so that they meet the same machine.
    """
    for model in plan.models:
        counts = [threads for threads in plan.threads if plan.missing(model, threads)]
        if counts:
            report(f"{model.title}: building")
            path = model_path(model, plan.cache / "models")
            yield from _model(plan, steadiness, report, model, path, counts)


def with_peak_shares(cases: Sequence[CaseResult]) -> list[CaseResult]:
    """The cases of a run with each engine's shares of the fp32 peak, by the probes of its visits.

    A visit counts where the probes on both sides show full speed, that is `STEADY` of the best
    probe of as many cores in the run; where an engine has none, all its visits count. The peak is
    the higher of the two probes. bf16 work is not limited by that peak.
    """
    counts = {case.threads for case in cases}
    full = {threads: STEADY * threads * best_speed(cases, threads) for threads in counts}
    return [_shared(case, full[case.threads]) for case in cases]


def _shared(case: CaseResult, full: float) -> CaseResult:
    rows = []
    for row in case.latencies:
        visits = [visit for visit in row.visits if visit.speed >= full] or row.visits
        shares = [case.gflop / v.seconds / max(v.before, v.after) for v in visits]
        found = {}
        if shares and row.engine not in engines.BF16_ENGINES:
            found = {"peak_share": statistics.median(shares), "best_share": max(shares)}
        rows.append(row.model_copy(update=found))
    return case.model_copy(update={"latencies": rows})


def _model(
    plan: Plan,
    steadiness: Steadiness,
    report: Callable[[str], None],
    model: BenchmarkModel,
    path: Path,
    counts: Sequence[int],
) -> Generator[CaseResult | Loading]:
    counter = FlopCounter(path)
    with ExitStack() as stack:
        entrants = []
        for threads, name in itertools.product(counts, plan.engines):
            report(f"{model.title}, {threads} threads: loading {name}")
            ours = name in (engines.OURS, engines.OURS_BF16)
            cache = str(plan.cache / "code") if ours else None
            cpu = usable_cpus()[0] if plan.pin and threads == 1 else None
            setup = engines.EngineSetup(name, threads, plan.isa, cache, cpu)
            entrant = stack.enter_context(closing(Entrant(setup, model, path, plan.timeout)))
            entrants.append(entrant)
            if (loaded := entrant.load()) is not None:
                yield Loading(
                    model=model.title,
                    engine=name,
                    threads=threads,
                    seconds=loaded[0],
                    resident=loaded[1],
                    file_size=path.stat().st_size,
                )
        for dims in plan.cases(model):
            report(f"{model.title}, {case_name(dims)}: measuring")
            wanted = [n for n in counts if dims in plan.missing(model, n)]
            racing = [entrant for entrant in entrants if entrant.threads in wanted]
            agreements = {
                n: _agreements([entrant for entrant in racing if entrant.threads == n], dims)
                for n in wanted
            }
            taking_part = [entrant for entrant in racing if entrant.failure is None]
            turns = take_turns(taking_part, plan.pace, steadiness=steadiness)
            times = dict(zip(map(id, taking_part), turns, strict=True))
            operations = counter.count(dims)
            for threads in wanted:
                rows = [
                    _latency(
                        entrant,
                        times.get(id(entrant), Times(failure=entrant.failure)),
                        operations,
                        agreements[threads].get(entrant.name),
                    )
                    for entrant in racing
                    if entrant.threads == threads
                ]
                yield CaseResult(
                    model=model.name,
                    title=model.title,
                    case=case_name(dims),
                    dims=dict(dims),
                    threads=threads,
                    gflop=operations / 1e9,
                    core_speed=_speed(rows, threads),
                    latencies=rows,
                )


def _speed(rows: Sequence[Latency], threads: int) -> float:
    """See `CaseResult.core_speed`; 0 where nobody was measured."""
    fastest = [max(visit.speed for visit in row.visits) for row in rows if row.visits]
    return min(fastest, default=0.0) / threads


def _agreements(entrants: Sequence[Entrant], dims: Dims) -> dict[str, Agreement]:
    """Take up a case everywhere and compare the answers with the oracle's."""
    outputs = {entrant.name: entrant.prepare(dims) for entrant in entrants}
    reference = outputs.get(engines.ORACLE)
    if reference is None:
        return {}
    return {name: compare(reference, got) for name, got in outputs.items() if got is not None}


def _latency(
    entrant: Entrant, times: Times, operations: int, agreement: Agreement | None
) -> Latency:
    failure = times.failure
    reduced = entrant.name in engines.BF16_ENGINES
    if failure is None and agreement is not None and not (agreement.equal or reduced):
        failure = agreement.problem or "outputs differ by more than equality allows"
    figures: dict[str, Any] = {}
    if times.seconds:
        figures = {
            "minimum": min(times.seconds),
            "median": statistics.median(times.seconds),
            "gflops": operations / min(times.seconds) / 1e9,
            "visits": [Visit(**vars(visit)) for visit in times.visits],
        }
    return Latency(
        engine=entrant.name,
        calls=len(times.seconds),
        max_error=agreement.max_error if agreement else None,
        tolerance_used=agreement.tolerance_used if agreement else None,
        failure=failure,
        **figures,
    )
