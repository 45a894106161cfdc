"""Draws the result of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import engines
from benchmarks.results import CaseResult, PeersReport
from benchmarks.summary import fastest_peer, geometric_mean, speedup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {
    "packhorse": ("#0b7a55", "D", 46),
    "onnxruntime": ("#d97706", "o", 34),
    "openvino": ("#6d4bb0", "s", 30),
    "packhorse-bf16": ("#7fc7ad", "D", 30),
    "openvino-bf16": ("#b9a6e0", "s", 22),
}
TICKS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


def draw_peers(report: PeersReport, path: Path) -> None:
    """Write a chart of speed relative to the faster fp32 peer, one panel per thread count."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    threads = sorted({case.threads for case in report.cases})
    groups = [[case for case in report.cases if case.threads == count] for count in threads]
    height = 0.25 * max(map(len, groups)) + 2.2
    figure, panels = plt.subplots(
        1,
        len(threads),
        figsize=(5.4 * len(threads) + 1.4, height),
        squeeze=False,
        layout="constrained",
    )
    for panel, count, cases in zip(panels[0], threads, groups, strict=True):
        _draw_panel(panel, cases, labelled=panel is panels[0][0])
        mean = geometric_mean(value for case in cases if (value := speedup(case)) is not None)
        suffix = "" if mean is None else f": Packhorse {mean:.2f}x, geometric mean"
        panel.set_title(f"{count} thread{'s' * (count > 1)}{suffix}", fontsize=10, loc="left")
    handles = {
        label: handle
        for panel in panels[0]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    source = report.provenance
    warning = "" if source.quiet else ", machine not quiet"
    figure.suptitle(
        "Speed relative to the faster of onnxruntime and OpenVINO in fp32, by minima\n"
        f"{source.cpu}, {source.date[:10]}, commit {source.commit or 'unknown'}{warning}",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_panel(panel: "Axes", cases: Sequence[CaseResult], *, labelled: bool) -> None:
    titles = list(dict.fromkeys(case.title for case in cases))
    for row, case in enumerate(cases):
        if titles.index(case.title) % 2:
            panel.axhspan(row - 0.5, row + 0.5, color="#f1f3f5", zorder=0)
    lowest, highest = 0.8, 1.25
    for engine, (colour, marker, area) in STYLES.items():
        points = []
        for row, case in enumerate(cases):
            own, reference = case.minimum(engine), fastest_peer(case)
            if own is not None and reference is not None:
                points.append((reference / own, row))
        if not points:
            continue
        speeds, rows = zip(*points, strict=True)
        lowest, highest = min(lowest, *speeds), max(highest, *speeds)
        order = 4 if engine == engines.OURS else 3
        panel.scatter(speeds, rows, s=area, c=colour, marker=marker, label=engine, zorder=order)
    panel.axvline(1.0, color="#495057", linewidth=0.9, zorder=1)
    panel.set_xscale("log")
    panel.set_xlim(lowest / 1.12, highest * 1.12)
    ticks = [tick for tick in TICKS if lowest / 1.12 <= tick <= highest * 1.12]
    panel.set_xticks(ticks, [f"{tick:g}x" for tick in ticks], fontsize=8)
    panel.minorticks_off()
    panel.grid(axis="x", color="#dee2e6", linewidth=0.6, zorder=0)
    labels = [f"{case.title}  {case.case}" for case in cases] if labelled else []
    panel.set_yticks(range(len(cases)) if labelled else [], labels, fontsize=8)
    panel.set_ylim(len(cases) - 0.5, -0.5)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)
