"""Results as text: the header that every benchmark prints, and the tables."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import engines
from benchmarks.results import CaseResult, Latency, Limits, Loading, Provenance
from benchmarks.summary import best_speed, means, scaling, slow_cases, speedup, steady_scaling
from benchmarks.turns import STEADY

WIDTH = 150


def console() -> Console:
    """A console that is wide enough for the tables also where output goes to a file.

    It records, so that a report can repeat what was printed.
    """
    plain = Console(record=True)
    return plain if plain.is_terminal else Console(record=True, width=WIDTH)


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it: "3.21 µs", "12.4 ms", "1.05 s"."""
    if seconds is None:
        return "-"
    unit, scale = next(
        ((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e-3)) if seconds >= scale),
        ("µs", 1e-6),
    )
    value = seconds / scale
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def size(count: int) -> str:
    """A number of bytes: "32 KiB", "1.5 MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def ratio(value: float | None) -> str:
    """A speed-up: "1.31x"."""
    return "-" if value is None else f"{value:.2f}x"


def percent(value: float | None) -> str:
    """A share in percent."""
    return "-" if value is None else f"{100 * value:.0f} %"


def grid(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table whose first `left` columns are text and the others figures."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=index < left)
    return table


def show_provenance(out: Console, provenance: Provenance) -> None:
    """Print where, when and with what, and a warning where figures cannot be trusted."""
    revision = provenance.commit or "no commit"
    cache_sizes = ", ".join(
        f"L{cache.level} {size(cache.size)}" + (f" per {cache.shared_by}" * (cache.shared_by > 1))
        for cache in provenance.caches
    )
    rows = (
        ("date", provenance.date),
        ("command", provenance.command),
        ("commit", revision + (" with local changes" if provenance.modified else "")),
        ("CPU", f"{provenance.cpu}, {provenance.cpus} usable, {', '.join(provenance.features)}"),
        ("caches", cache_sizes or "not reported"),
        ("memory", f"{size(provenance.memory)}, Linux {provenance.kernel}"),
        ("versions", ", ".join(f"{name} {text}" for name, text in provenance.versions.items())),
        (
            "load",
            f"average {' '.join(f'{value:.2f}' for value in provenance.load_average)}, "
            f"{percent(provenance.busy_share)} of CPU time in use before the run",
        ),
    )
    table = Table.grid(padding=(0, 2))
    for label, text in rows:
        table.add_row(f"[bold]{label}[/bold]", text)
    out.print(table)
    if not provenance.quiet:
        out.print("[bold yellow]The machine is not quiet: do not trust these times.[/]")


def show_limits(out: Console, limits: Limits) -> None:
    """Print the measured machine."""
    peaks = grid("Arithmetic peak, 1e9 operations/s", "set", "type", "1 core", "all cores", left=2)
    for peak in limits.peaks:
        peaks.add_row(peak.name, peak.kind, f"{peak.core:.0f}", f"{peak.all_cores:.0f}")
    reads = grid("Read bandwidth, GB/s", "level", "bytes per core", "1 core", "all cores")
    for row in limits.bandwidths:
        figures = (f"{row.core:.0f}", f"{row.all_cores:.0f}")
        reads.add_row(row.level, size(row.working_set), *figures)
    both = Table.grid(padding=(0, 4))
    both.add_row(peaks, reads)
    out.print(both)


def show_cases(out: Console, cases: Sequence[CaseResult]) -> None:
    """Print one row per engine of every case."""
    table = grid(
        "Latency (speed-up: faster fp32 peer over ours, by minima)",
        *("model", "case", "threads", "engine", "minimum", "median", "GFLOP/s", "of peak"),
        *("vs 1 thread", "at one speed", "error/allowed", "speed-up"),
        left=4,
    )
    slow = slow_cases(cases)
    for case in cases:
        for index, row in enumerate(case.latencies):
            mark = "!" if case in slow else ""
            threads = f"{case.threads}{mark}"
            head = (case.title, case.case, threads) if not index else ("", "", "")
            gain = speedup(case) if row.engine == engines.OURS else None
            table.add_row(*head, *_latency(row), *_comparison(cases, case, row, gain))
        table.add_section()
    out.print(table)


def show_means(out: Console, cases: Sequence[CaseResult]) -> None:
    """Print geometric means of our speed-ups."""
    columns = (f"over {peer}" for peer in engines.FP32_PEERS)
    table = grid(
        "Speed-up, geometric means", "group", "cases", "over the faster", *columns, "worst case"
    )
    for mean in means(cases):
        peers = (ratio(mean.over_peer[peer]) for peer in engines.FP32_PEERS)
        figures = (ratio(mean.over_fastest), *peers, ratio(mean.worst))
        table.add_row(mean.label, str(mean.cases), *figures)
    out.print(table)


def show_loadings(out: Console, loadings: Iterable[Loading]) -> None:
    """Print seconds and resident memory of loading each model."""
    table = grid(
        "Loading, up to and with one small call",
        *("model", "engine", "threads", "time", "resident", "of file size"),
        left=2,
    )
    for row in loadings:
        share = row.resident / row.file_size if row.file_size >= 1 << 20 else None
        figures = (duration(row.seconds), size(row.resident), ratio(share))
        table.add_row(row.model, row.engine, str(row.threads), *figures)
    out.print(table)


def show_failures(out: Console, cases: Iterable[CaseResult]) -> None:
    """Print every reason why an engine has no figures, or wrong outputs, once with its cases."""
    reasons = (
        (row.engine, f"{case.title} {case.case} ({case.threads})", row.failure)
        for case in cases
        for row in case.latencies
        if row.failure is not None
    )
    show_reasons(out, reasons)


def show_reasons(out: Console, reasons: Iterable[tuple[str, str, str]]) -> None:
    """Print (who, where, why) triples, one line for all places with the same who and why."""
    places: dict[tuple[str, str], list[str]] = {}
    for who, where, why in reasons:
        places.setdefault((who, " ".join(why.split())), []).append(where)
    for (who, why), where_all in places.items():
        more = f" and {len(where_all) - 3} more" if len(where_all) > 3 else ""
        out.print(f"[red]{who}[/] at {', '.join(where_all[:3])}{more}: {escape(why)}")


def show_drift(out: Console, cases: Sequence[CaseResult]) -> None:
    """Print how steady the machine was, and which cases met it at less than its full speed."""
    slow = slow_cases(cases)
    if not slow:
        out.print(
            "The machine was steady enough: in every case each engine met the cores at "
            f"{percent(STEADY)} of their best speed or more."
        )
        return
    lowest = min(case.core_speed / best_speed(cases, case.threads) for case in slow)
    out.print(
        f"[bold yellow]The machine was not steady:[/] in {len(slow)} of {len(cases)} cases an "
        f"engine never met the cores at {percent(STEADY)} of their best speed (worst case "
        f"{percent(lowest)}); these are marked ! in the table."
    )


def _latency(row: Latency) -> tuple[str, ...]:
    if row.minimum is None:
        return row.engine, "[red]failed[/]", "", "", ""
    return (
        row.engine,
        duration(row.minimum),
        duration(row.median),
        "-" if row.gflops is None else f"{row.gflops:.1f}",
        percent(row.peak_share),
    )


def _comparison(
    cases: Sequence[CaseResult], case: CaseResult, row: Latency, gain: float | None
) -> tuple[str, str, str, str]:
    against_one = scaling(cases, case, row.engine) if case.threads > 1 else None
    steady = steady_scaling(cases, case, row.engine) if case.threads > 1 else None
    error = "-" if row.tolerance_used is None else f"{row.tolerance_used:.2g}"
    if row.minimum is not None and row.failure is not None:
        error = f"[red]{error} wrong[/]"
    return (
        ratio(against_one),
        ratio(steady),
        error,
        "" if gain is None else f"[bold]{ratio(gain)}[/]",
    )
