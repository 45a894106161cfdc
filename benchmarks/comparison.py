"""Measures every engine on every case of a plan, one model at a time."""

import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import engines
from benchmarks.entrant import Entrant
from benchmarks.equality import Agreement, compare
from benchmarks.flops import FlopCounter
from benchmarks.models import BenchmarkModel, Dims, case_name, model_path
from benchmarks.results import CaseResult, Latency, Limits, Loading
from benchmarks.turns import Pace, Steadiness, Times, take_turns


@dataclass(frozen=True)
class Plan:
    """What one run measures; `small` replaces every model's cases by its smallest shape.

    Cases in `known`, by model, case and number of threads, are left out.
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

    def missing(self, model: BenchmarkModel, threads: int) -> list[Dims]:
        """Cases of a model that are to be measured."""
        cases = (model.tiny,) if self.small else model.cases
        return [d for d in cases if (model.name, case_name(d), threads) not in self.known]


def compare_engines(
    plan: Plan,
    probe: Callable[[], float],
    report: Callable[[str], None],
    steadiness: Steadiness | None = None,
) -> Generator[CaseResult | Loading]:
    """Yield results as they arrive.

    `probe` gives the speed of one core now, in GFLOP/s; `report` is told what is being done. With
    `steadiness` the machine is probed around every block, and a case's speed is the best that the
    least lucky engine met.
    """
    for model in plan.models:
        counts = [threads for threads in plan.threads if plan.missing(model, threads)]
        if not counts:
            continue
        report(f"{model.title}: building")
        path = model_path(model, plan.cache / "models")
        counter = FlopCounter(path)
        for threads in counts:
            yield from _with_threads(
                *(plan, probe, report, model, path, counter, threads), steadiness=steadiness
            )


def with_peak_shares(case: CaseResult, limits: Limits, isa: str | None) -> CaseResult:
    """The case with each engine's share of the fp32 peak; bf16 work is not limited by that one."""
    peak = limits.fp32_peak(case.threads, isa)
    rows = [
        row
        if row.gflops is None or row.engine in engines.BF16_ENGINES
        else row.model_copy(update={"peak_share": row.gflops / peak})
        for row in case.latencies
    ]
    return case.model_copy(update={"latencies": rows})


def _with_threads(
    plan: Plan,
    probe: Callable[[], float],
    report: Callable[[str], None],
    model: BenchmarkModel,
    path: Path,
    counter: FlopCounter,
    threads: int,
    steadiness: Steadiness | None,
) -> Generator[CaseResult | Loading]:
    with ExitStack() as stack:
        entrants = []
        for name in plan.engines:
            report(f"{model.title}, {threads} threads: loading {name}")
            cache = str(plan.cache / "code") if name == engines.OURS else None
            setup = engines.EngineSetup(name, threads, plan.isa, cache)
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
        for dims in plan.missing(model, threads):
            report(f"{model.title}, {threads} threads, {case_name(dims)}: measuring")
            agreements = _agreements(entrants, dims)
            taking_part = [entrant for entrant in entrants if entrant.failure is None]
            if steadiness is None:
                before = probe()
                times = take_turns(taking_part, plan.pace)
                speed = min(before, probe())
            else:
                times = take_turns(taking_part, plan.pace, steadiness=steadiness)
                speed = min((max(t.speeds) for t in times.values() if t.speeds), default=0.0)
            operations = counter.count(dims)
            yield CaseResult(
                model=model.name,
                title=model.title,
                case=case_name(dims),
                dims=dict(dims),
                threads=threads,
                gflop=operations / 1e9,
                core_speed=speed,
                latencies=[
                    _latency(
                        entrant,
                        times.get(entrant.name, Times(failure=entrant.failure)),
                        operations,
                        agreements.get(entrant.name),
                    )
                    for entrant in entrants
                ],
            )


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
    figures = {}
    if times.seconds:
        figures = {
            "minimum": min(times.seconds),
            "median": statistics.median(times.seconds),
            "gflops": operations / min(times.seconds) / 1e9,
        }
    return Latency(
        engine=entrant.name,
        calls=len(times.seconds),
        max_error=agreement.max_error if agreement else None,
        tolerance_used=agreement.tolerance_used if agreement else None,
        failure=failure,
        **figures,
    )
