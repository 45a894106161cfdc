"""Write the table of real input.

    python -m examples.real_input --models FOLDER [--output docs/real-input.md] [CASE ...]

Runs every case through the engine and through HTTP, each answer compared with onnxruntime's, and
ends with exit code 1 where a target is missed or an output differs.
"""

import argparse
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from engine import cpu
from examples.real_input.case import Case, Outcome
from examples.real_input.suite import CASES, WAYS, Result, solve

ROOT = Path(__file__).resolve().parent.parent.parent
INTRODUCTION = """\
# Real input

Published models on the inputs they were made for, through the engine and through HTTP (the stock
Triton client, one gateway per model). Every output of every run is compared with onnxruntime's on
the same input. *Allowance used* is the largest difference as a share of what counts as equal,
`1e-4 · max|reference| + 1e-5` per tensor for floats, nothing for anything else: up to 100% is
equal. *Runs* counts calls of all models of a case, *shapes* their distinct input shapes.

Some models amplify rounding so much that onnxruntime differs from itself by more than that when the
same rows come in another batch. Where a run uses more than its allowance, the model is evaluated
once more in float64, and the run passes only if our result is at least as near to it as
onnxruntime's; such runs are listed below the table.

This page is written by `python -m examples.real_input`.
"""


def table(results: dict[str, dict[str, Result]]) -> str:
    """The results by case and way as a table in Markdown."""
    lines = [
        "| case | result | asked for | runs | shapes | allowance used: engine | over HTTP | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for name, by_way in results.items():
        first = next(iter(by_way.values()))
        runs = sum(tally.runs for tally in first.tallies.values())
        shapes = sum(len(tally.shapes) for tally in first.tallies.values())
        shares = [f"{by_way[way].worst:.2%}" if way in by_way else "" for way in WAYS]
        verdict = "passed" if all(result.passed for result in by_way.values()) else "**failed**"
        cells = name, first.outcome.figure, first.outcome.target, runs, shapes, *shares, verdict
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def decided(results: dict[str, dict[str, Result]]) -> str:
    """One line per model of which some runs were decided in float64."""
    lines = [
        f"- {model}, {way}: {tally.decided} of {tally.runs} runs decided in float64; the largest "
        f"error there is {tally.our_error:.1f} allowances for Packhorse and "
        f"{tally.their_error:.1f} for onnxruntime."
        for by_way in results.values()
        for way, result in by_way.items()
        for model, tally in result.tallies.items()
        if tally.decided
    ]
    return "".join(f"{line}\n" for line in lines)


def attempt(case: Case, models: Path, way: str) -> Result:
    """The result of a case; one that raises has failed, and the others still run."""
    try:
        return solve(case, models, way)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Result(case, Outcome(text, "an answer", False), {})


def provenance() -> str:
    """Machine and versions behind the figures."""
    machine = cpu.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("packhorse", "onnxruntime"))
    return f"{machine.model_name}, {machine.isa}, {machine.threads} threads; {versions}."


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the table of real input.")
    default = os.environ.get("PACKHORSE_MODELS", str(ROOT.parent / "shared" / "models"))
    parser.add_argument("--models", type=Path, default=Path(default), help="folder of the models")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "real-input.md")
    parser.add_argument("cases", nargs="*", help="only these; then the table is printed only")
    arguments = parser.parse_args()
    if not arguments.models.is_dir():
        parser.error(f"{arguments.models}: no such folder; name it with --models")
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    if not chosen:
        parser.error(f"known cases: {', '.join(case.name for case in CASES)}")
    results: dict[str, dict[str, Result]] = {}
    for case in chosen:
        results[case.name] = {}
        for way in WAYS:
            begin = time.monotonic()
            results[case.name][way] = result = attempt(case, arguments.models, way)
            verdict = result.complaint() or "passed"
            seconds = time.monotonic() - begin
            print(f"{case.name} ({way}): {verdict} [{seconds:.1f} s]", file=sys.stderr, flush=True)
    text = table(results)
    if arguments.cases:
        print(f"{text}\n\n{decided(results)}")
    else:
        notes = decided(results)
        page = f"{INTRODUCTION}\n{text}\n\n{notes}\n{provenance()}\n"
        arguments.output.write_text(page)
        print(f"wrote {arguments.output}", file=sys.stderr)
    passed = all(result.passed for by_way in results.values() for result in by_way.values())
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
