"""Write the table of accuracy in bf16.

    python -m examples.real_input.accuracy --models FOLDER [--output FILE] [CASE ...]

Solves every case in fp32, with weights rounded to bf16, and with bf16 arithmetic emulated; every
answer of the latter two is compared with the fp32 engine's on the same input.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import engine
from engine import Precision
from examples.real_input.__main__ import ROOT, provenance
from examples.real_input.case import Case, Outcome, Run, Tensors
from examples.real_input.suite import CASES

PRECISIONS = {
    "fp32": Precision(),
    "bf16 weights": Precision.of("bf16"),
    "bf16": Precision.of("bf16", emulate=True),
}
INTRODUCTION = """\
# Accuracy in bf16

Published models on the inputs they were made for: the outcome of each task in fp32, with the
weights of products rounded to bf16 (what a CPU without bf16 arithmetic does), and in bf16
arithmetic with fp32 sums, which is emulated (see [precision](precision.md)). *Relative error* is
the root of the mean squared difference from fp32 on the same inputs, over that of fp32's values, of
the output where it is largest, over all runs of all models of a case. Every product of every model
is in bf16; none was kept in fp32.

This page is written by `python -m examples.real_input.accuracy`.
"""


@dataclass(slots=True)
class Distance:
    """Squares of differences and of values, by output of a model."""

    squares: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, found: Tensors, expected: Tensors) -> None:
        """Add one run."""
        for name, wanted in expected.items():
            if wanted.dtype.kind != "f":
                continue
            values = wanted.astype(np.float64)
            error = np.square(found[name].astype(np.float64) - values).sum()
            before = self.squares.get(name, (0.0, 0.0))
            self.squares[name] = before[0] + float(error), before[1] + float((values**2).sum())

    @property
    def relative(self) -> float:
        """Relative error of the worst output."""
        return max(((e / v) ** 0.5 for e, v in self.squares.values() if v), default=0.0)


def solve(case: Case, models: Path, precision: Precision) -> tuple[Outcome, float]:
    """Outcome of a case in a precision, and the largest relative error of its models."""
    distances: list[Distance] = []
    with ExitStack() as stack:

        def open_(model: str) -> Run:
            path, distance = models / model, Distance()
            session = stack.enter_context(closing(engine.load(path, precision=precision)))
            plain = stack.enter_context(closing(engine.load(path)))
            distances.append(distance)

            def run(inputs: Tensors) -> Tensors:
                found = session.run(inputs)
                if precision.reduced:
                    distance.add(found, plain.run(inputs))
                return found

            return run

        outcome = case.solve(models, open_)
    return outcome, max((distance.relative for distance in distances), default=0.0)


def table(cases: Iterable[Case], models: Path) -> str:
    """The outcomes as a table in Markdown."""
    lines = [
        "| case | fp32 | bf16 weights | relative error | bf16 | relative error |",
        "|---|---|---|--:|---|--:|",
    ]
    for case in cases:
        cells = [case.name]
        for name, precision in PRECISIONS.items():
            outcome, error = solve(case, models, precision)
            same = outcome.figure == cells[1] if len(cells) > 1 else False
            cells.append("the same" if same else outcome.figure)
            if precision.reduced:
                cells.append(f"{error:.2%}")
            print(
                f"{case.name} ({name}): {outcome.figure}, {error:.2%}", file=sys.stderr, flush=True
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the table of accuracy in bf16.")
    default = os.environ.get("PACKHORSE_MODELS", str(ROOT.parent / "shared" / "models"))
    parser.add_argument("--models", type=Path, default=Path(default), help="folder of the models")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "precision-accuracy.md")
    parser.add_argument("cases", nargs="*", help="only these; then the table is printed only")
    arguments = parser.parse_args()
    if not arguments.models.is_dir():
        parser.error(f"{arguments.models}: no such folder; name it with --models")
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    text = table(chosen, arguments.models)
    if arguments.cases:
        print(text)
    else:
        arguments.output.write_text(f"{INTRODUCTION}\n{text}\n\n{provenance()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
