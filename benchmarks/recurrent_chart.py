"""Draws time per step against hidden size, with the limits that reading the weights sets."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.charts import STYLES
from benchmarks.models.recurrent import GATES, Cell, recurrent_weight_bytes
from benchmarks.results import CaseResult, PeersReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = {"L1": "#ced4da", "L2": "#adb5bd", "L3": "#868e96", "memory": "#495057"}


def draw_steps(report: PeersReport, path: Path) -> None:
    """Write a chart of the smallest batch over the longest sequence, a panel per cell and number of
    threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    batch = min((case.dims["batch"] for case in report.cases), default=1)
    cases = [case for case in report.cases if case.dims["batch"] == batch]
    longest = max((case.dims["length"] for case in cases), default=0)
    cases = [case for case in cases if case.dims["length"] == longest]
    threads = sorted({case.threads for case in cases}) or [1]
    figure, panels = plt.subplots(
        len(GATES),
        len(threads),
        figsize=(5.2 * len(threads), 4.2 * len(GATES)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for row, cell in zip(panels, GATES, strict=True):
        for panel, count in zip(row, threads, strict=True):
            chosen = [c for c in cases if c.threads == count and c.title.startswith(cell)]
            _draw_limits(panel, report, cell, count, sorted({_hidden(c) for c in chosen}))
            _draw_engines(panel, chosen, longest)
            panel.set_title(f"{cell}, {count} thread{'s' * (count > 1)}", fontsize=10, loc="left")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    source = report.provenance
    warning = "" if source.quiet else ", machine not quiet"
    figure.suptitle(
        f"Time per step of one layer, batch {batch}, {longest} steps; lines: reading the recurrent "
        f"weights once\n{source.cpu}, {source.date[:10]}, commit {source.commit or 'unknown'}"
        f"{warning}",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _hidden(case: CaseResult) -> int:
    return int(case.model.rsplit("_", 1)[1])


def _draw_limits(
    panel: "Axes", report: PeersReport, cell: Cell, threads: int, sizes: list[int]
) -> None:
    every = threads >= report.limits.cpus
    for row in report.limits.bandwidths:
        speed = row.all_cores if every else row.core * threads
        times = [recurrent_weight_bytes(cell, size) / speed / 1e3 for size in sizes]
        colour = LEVELS.get(row.level, "#868e96")
        panel.plot(sizes, times, color=colour, linewidth=1, label=f"from {row.level}", zorder=1)


def _draw_engines(panel: "Axes", cases: list[CaseResult], steps: int) -> None:
    for engine, (colour, marker, _) in STYLES.items():
        points = sorted(
            (_hidden(case), seconds / steps * 1e6)
            for case in cases
            if (seconds := case.minimum(engine)) is not None
        )
        if points:
            sizes, times = zip(*points, strict=True)
            panel.plot(sizes, times, color=colour, marker=marker, label=engine, zorder=3)
    sizes = sorted({_hidden(case) for case in cases})
    if sizes:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.set_xlabel("hidden size", fontsize=9)
    panel.set_ylabel("µs per step", fontsize=9)
    panel.grid(color="#dee2e6", linewidth=0.6, zorder=0)
