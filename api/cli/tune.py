"""`packhorse tune`: measure what schedules follow from, on this machine."""

from rich.table import Table

from api.cli import options, terminal
from api.cli.cache import Folder
from engine.codegen.target import select
from engine.tuning import write_tuning


def tune(
    threads: options.Threads = None,
    isa: options.IsaOption = None,
    cache_dir: Folder = None,
) -> None:
    """Measure the constants of this CPU's schedules and keep them for later starts.

    They decide how work is divided, never what comes out. The machine should be otherwise idle.
    Models that were prepared before are prepared again at their next start.
    """
    from engine.tuner import tune as measure

    with terminal.progress() as report:
        found, findings = measure(
            threads, isa, cache_dir, report=lambda stage: report(f"measuring {stage}", 0, 0)
        )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("constant", "chosen", "relative time of each candidate"):
        table.add_column(column, justify="right" if column == "chosen" else "left")
    for finding in findings:
        tried = ", ".join(f"{value}: {share:.3f}" for value, share in finding.times.items())
        shown = tried if len(finding.times) > 1 else "measured directly"
        table.add_row(finding.name, str(finding.chosen), shown)
    terminal.output.print(table)
    path = write_tuning(select(isa).name, found, cache_dir)
    terminal.output.print(f"kept in {path}", markup=False, highlight=False)
