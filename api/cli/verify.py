"""`packhorse verify`: a model's outputs beside those of other implementations."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

import engine
from api.cli import options, terminal
from api.cli.errors import UsageError
from api.cli.inputs import parse_shapes
from api.cli.verification.accuracy_report import document, measured, read_labels, show
from api.cli.verification.agreement import TOLERANCES
from api.cli.verification.cases import Case, candidates, random_case, read_cases, shapes_text
from api.cli.verification.references import MAKERS, chosen
from api.cli.verification.verification import CaseResult, Comparison, Verification


def verify(
    model: options.Model,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--inputs",
            "-i",
            metavar="FILE|FOLDER",
            help="Verify on these instead of random values: a .npz, .npy, .json or image file is "
            "one case; a folder holds such files, or test_data_set folders with input_0.pb.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x224x224",
            help="Shape of an input for random values; another one for the same input makes "
            "another case.",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[
        int, typer.Option(min=1, help="Random cases, of different shapes where shapes are open.")
    ] = 3,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help=f"Compare with these only: {', '.join(MAKERS)}.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    threads: options.Threads = None,
    isa: options.IsaOption = None,
    precision: options.PrecisionOption = None,
    fp32_node: options.Kept = None,
    bf16_first: options.First = None,
    budget: Annotated[
        float,
        typer.Option(
            min=0, help="With --precision bf16, the relative error that outputs may have."
        ),
    ] = 0.02,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --precision bf16, JSON of the right class index by case; default: "
            "labels.json in a folder of inputs.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare a model's outputs with other implementations of ONNX, or in bf16 with fp32.

    They are onnxruntime, where it is installed, which then decides, and the onnx package's
    reference evaluator. Where an output differs, the first node that differs is named. The exit
    code is 1 where an output differs or a case fails.

    With --precision bf16, arithmetic of bf16 products with fp32 sums is emulated, whatever the CPU
    has, and compared with the model in fp32: errors per output, and right answers where there are
    labels. Where the budget is exceeded, products are suggested that should stay in fp32, and the
    exit code is 1.

    Example: packhorse verify model.onnx --shape x=1x3x224x224 --shape x=4x3x320x256
    """
    if inputs and shape:
        raise UsageError("--shape is for random values; files given with --inputs have theirs")
    if not Path(model).is_file():
        raise UsageError(f"{model}: no such file")
    if precision == "bf16":
        reduced = options.precision(precision, fp32_node, bf16_first, emulate=True)

        def prepared(session: engine.Session) -> Iterator[list[Case]]:
            return _cases(session, inputs or [], shape or [], cases)

        known = read_labels(labels, inputs or [])
        accuracy = measured(model, prepared, reduced, budget, known, threads, isa)
        if json:
            terminal.output.out(orjson.dumps(document(model, accuracy)).decode())
        else:
            show(accuracy)
        if not accuracy.within:
            raise typer.Exit(1)
        return
    names = chosen(reference)
    tolerance = TOLERANCES["fp32"]
    session = terminal.load(model, threads, isa)
    try:
        verification = Verification(Path(model), session, names, tolerance, isa)
        results = []
        for tries in _cases(session, inputs or [], shape or [], cases):
            result = verification.run(tries)
            if not result.equal:
                verification.locate(result)
            results.append(result)
        explanation = session.explain()
    finally:
        session.close()
    if json:
        terminal.output.out(orjson.dumps(_document(model, verification, results)).decode())
    else:
        for name, why in verification.refusals.items():
            terminal.print_note(f"{name} cannot load the model: {why}")
        _print(results)
        if explanation.fallbacks:
            terminal.print_note(
                f"{explanation.fallback_count} of {len(explanation.operations)} operations run on "
                "the onnx package's reference implementation in both"
            )
    if not all(result.equal for result in results):
        raise typer.Exit(1)


def _cases(
    session: engine.Session, inputs: list[str], shape: list[str], count: int
) -> Iterator[list[Case]]:
    """The cases, each as inputs to try until a reference runs them."""
    if inputs:
        yield from ([case] for case in read_cases(session, inputs))
    elif shape:
        for index, shapes in enumerate(_rounds(shape)):
            yield [random_case(session, shapes, index)]
    else:
        yield from candidates(session, count)


def _rounds(arguments: list[str]) -> list[dict[str, tuple[int, ...]]]:
    """Shapes of each case: the n-th one of every input, its last one where it has fewer."""
    given: dict[str, list[tuple[int, ...]]] = {}
    for argument in arguments:
        for name, sizes in parse_shapes([argument]).items():
            given.setdefault(name, []).append(sizes)
    count = max(map(len, given.values()))
    return [
        {name: found[min(index, len(found) - 1)] for name, found in given.items()}
        for index in range(count)
    ]


def _print(results: list[CaseResult]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("case", "inputs", "against", "output", "max error", "allowed", ""):
        numeric = column in ("max error", "allowed")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for result in results:
        for cells in _rows(result):
            table.add_row(*map(escape, cells), style=None if result.equal else "yellow")
    terminal.output.print(table)
    for result in results:
        if result.divergence is not None:
            terminal.output.print(
                f"[bold red]first difference[/] in {escape(result.case.name)}: "
                f"{escape(result.divergence.describe())}"
            )
        elif not result.equal and not result.failure and result.decisive is not None:
            terminal.output.print(
                f"{escape(result.case.name)}: no single node differs when it is looked at alone: "
                "small differences add up"
            )
    different = sum(not result.equal for result in results)
    verdict = f"[bold red]{different} of {len(results)} cases differ or fail[/]"
    if not different:
        verdict = f"[bold green]All {len(results)} cases are equal.[/]"
    terminal.output.print(verdict)


def _rows(result: CaseResult) -> Iterator[tuple[str, ...]]:
    head = (result.case.name, shapes_text(result.case.inputs))
    if result.failure:
        yield (*head, "", "", "", "", f"Packhorse fails: {result.failure}")
    for comparison in result.comparisons:
        if comparison.failure:
            yield (*head, comparison.reference, "", "", "", f"fails: {comparison.failure}")
        for difference in comparison.differences:
            numbers = f"{difference.max_error:.3g}", f"{difference.allowed:.3g}"
            verdict = "equal" if difference.equal else difference.problem or "differs"
            if not difference.equal and comparison is not result.decisive:
                verdict += f"; {_decider(result)} decides"
            yield (*head, comparison.reference, difference.output, *numbers, verdict)


def _decider(result: CaseResult) -> str:
    return "" if result.decisive is None else result.decisive.reference


def _document(model: str, verification: Verification, results: list[CaseResult]) -> dict[str, Any]:
    return {
        "model": model,
        "equal": all(result.equal for result in results),
        "refused": verification.refusals,
        "cases": [
            {
                "name": result.case.name,
                "shapes": {name: _shape(array) for name, array in result.case.inputs.items()},
                "equal": result.equal,
                "failure": result.failure,
                "decided_by": _decider(result),
                "references": [_comparison(c) for c in result.comparisons],
                "first_difference": asdict(result.divergence) if result.divergence else None,
            }
            for result in results
        ],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "name": comparison.reference,
        "equal": comparison.equal,
        "failure": comparison.failure,
        "outputs": [asdict(d) | {"equal": d.equal} for d in comparison.differences],
    }


def _shape(array: Any) -> list[int]:
    return list(getattr(array, "shape", ()))
