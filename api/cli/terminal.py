"""What the terminal shows: results on standard output, progress and errors on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

import engine
from engine import cpu
from engine.precision import FP32, Precision

PLAIN_WIDTH = 200
"""Columns of tables that go to a file or a pipe."""

output = Console(
    highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH
)
status = Console(stderr=True, highlight=False, soft_wrap=True)

Report = Callable[[str, int, int], None]
"""Called with (stage, done, total), from any thread; `total` may be zero where it is unknown."""


def print_error(message: str) -> None:
    """One error line on standard error."""
    status.print(f"[bold red]error:[/] {escape(message)}")


def print_note(message: str) -> None:
    """One plain line on standard error."""
    status.print(escape(message))


def sentence(stage: str, total: int) -> str:
    """A stage for people: `compiling 34 kernels` for (`compiling`, 34)."""
    if stage == "compiling" and total:
        return f"compiling {total} {'kernel' if total == 1 else 'kernels'}"
    return stage


class Stages:
    """Shows stages of long work: bars on a terminal, else one line per stage of several steps.

    Bars vanish with `close`, so that only results stay on the screen.
    """

    def __init__(self) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), Elapsed()
        self._bars = Progress(*columns, console=status, transient=True)
        self._tasks: dict[str, TaskID] = {}
        if status.is_terminal:
            self._bars.start()

    def report(self, stage: str, done: int, total: int, *, of: str = "") -> None:
        """Show how far a stage is; `of` names whose stage it is, where there are several."""
        text = f"{of}: {sentence(stage, total)}" if of else sentence(stage, total)
        steps = total if total > 1 else None
        key = f"{of}/{stage}"
        if key not in self._tasks:
            self._finish(of)
            self._tasks[key] = self._bars.add_task(text, total=steps)
            if steps and not status.is_terminal:
                print(f"{text} ...", file=sys.stderr, flush=True)
        if steps:
            text += f", {done} done"
        self._bars.update(self._tasks[key], description=text, completed=done, total=steps)

    def _finish(self, of: str) -> None:
        """Fill the bars of earlier stages: one stage ends where the next begins."""
        for key, task in self._tasks.items():
            if key.startswith(f"{of}/"):
                self._bars.update(task, completed=1, total=1)

    def close(self) -> None:
        """Remove the bars."""
        if status.is_terminal:
            self._bars.stop()
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()


@contextmanager
def progress() -> Iterator[Report]:
    """Shows stages while the block runs."""
    stages = Stages()
    try:
        yield stages.report
    finally:
        stages.close()


def load(
    model: str,
    threads: int | None = None,
    isa: cpu.Isa | None = None,
    precision: Precision = FP32,
) -> engine.Session:
    """`engine.load` with its progress shown, and what became of the precision where it is not
    fp32."""
    with progress() as report:
        session = engine.load(
            model,
            threads,
            isa=isa,
            progress=lambda step: report(step.stage, step.done, step.total),
            precision=precision,
        )
    if session.precision != FP32.kind:
        print_note(f"{session.name}: {session.precision}")
    return session


def bytes_text(size: int) -> str:
    """A size for people, in binary units: `1.5 MiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value.is_integer() else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def shape_text(shape: tuple[int | str, ...]) -> str:
    """A shape for people: `[N, 3, 224, 224]`."""
    return "[" + ", ".join(map(str, shape)) + "]"
