"""`packhorse build`: fill the caches ahead of time, for images and machines that start often."""

import time
from pathlib import Path
from typing import Annotated

import typer

import engine
from api.cli import options, terminal
from api.cli.cache import Folder
from api.cli.errors import UsageError
from cluster.precision import PrecisionChoice
from cluster.repository import Repository
from engine import cpu
from engine.precision import Precision


def build(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_REPOSITORY", help="ONNX file, or a repository of models."),
    ],
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            "-t",
            metavar="N[,N...]",
            envvar="PACKHORSE_THREADS",
            help="Numbers of threads to prepare for; default: all usable CPUs.",
            show_default=False,
        ),
    ] = None,
    isa: options.IsaOption = None,
    precision: options.PrecisionOption = None,
    cache_dir: Folder = None,
) -> None:
    """Compile and pack models now, so that a later start compiles and packs nothing.

    What is prepared serves every CPU of the instruction set. A repository is prepared whole: every
    version that its models ask to serve.
    """
    counts = _counts(threads)
    compiled = 0.0
    for name, path, choice in _models(Path(model)):
        for count in counts:
            begin = time.perf_counter()
            session = _load(path, name, count, isa, cache_dir, choice.over(precision))
            stats = session.stats()
            fresh, compiled = stats["kernels_compiled"] - compiled, stats["kernels_compiled"]
            packed = terminal.bytes_text(int(stats["weight_bytes"]))
            terminal.output.print(
                f"{name}, {stats['threads']} {'thread' if stats['threads'] == 1 else 'threads'}: "
                f"{fresh:.0f} kernels compiled, {packed} of "
                f"weights packed, {time.perf_counter() - begin:.1f} s",
                markup=False,
                highlight=False,
            )
            session.close()


def _load(
    path: Path,
    name: str,
    count: int | None,
    isa: cpu.Isa | None,
    folder: Path | None,
    precision: Precision,
) -> engine.Session:
    stages = terminal.Stages()
    try:
        return engine.load(
            path,
            count,
            isa=isa,
            cache_dir=folder,
            progress=lambda step: stages.report(step.stage, step.done, step.total, of=name),
            precision=precision,
        )
    finally:
        stages.close()


def _counts(text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    counts: list[int | None] = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise UsageError(f"--threads {text!r}: give numbers such as 1,2,4")
        counts.append(int(part))
    return counts


def _models(path: Path) -> list[tuple[str, Path, PrecisionChoice]]:
    """Title, file and precision of every model version to serve under `path`."""
    found = []
    for entry in Repository(path).scan().values():
        config = entry.config()
        for version, file in sorted(entry.wanted(config).items()):
            several = len(entry.versions) > 1
            title = f"{entry.name} version {version}" if several else entry.name
            found.append((title, file, config.precision_choice))
    return found
