import itertools
from collections import Counter
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import tables
from benchmarks.engines import FP32_ENGINES
from benchmarks.models import MODELS
from benchmarks.results import ShapesReport, VisitResult
from benchmarks.shapes import (
    extra_seconds,
    first_over_later,
    joined,
    main,
    part_of,
    random_shapes,
    show_goals,
    stream_seconds,
    visits,
)
from tests.benchmarks.samples import provenance


@pytest.mark.parametrize("name", MODELS)
def test_random_shapes_are_different_and_in_range(name):
    model = MODELS[name]
    shapes = random_shapes(model, 40)
    assert len({tuple(dims.items()) for dims in shapes}) == len(shapes)
    assert len(shapes) == (4 if name == "vgg16" else 40)
    for dims in shapes:
        assert set(dims) == set(model.ranges)
        assert all(low <= dims[key] <= high for key, (low, high) in model.ranges.items())
    assert random_shapes(model, 40) == shapes


@given(shapes=st.integers(1, 50), later=st.integers(0, 6))
def test_every_shape_is_visited_so_often_and_never_twice_running(shapes: int, later: int) -> None:
    order = visits(shapes, later)
    assert Counter(order) == dict.fromkeys(range(shapes), later + 1)
    assert [order.index(shape) for shape in range(shapes)] == sorted(map(order.index, set(order)))
    if shapes > 1:
        assert all(first != second for first, second in itertools.pairwise(order))


def test_first_visits_against_the_median_of_later_ones():
    result = VisitResult(
        model="Small",
        engine="packhorse",
        shapes=[{"batch": 1}, {"batch": 2}],
        first=[2.0, 6.0],
        later=[[1.0, 1.0, 9.0], [4.0, 4.0, 4.0]],
    )
    assert first_over_later(result) == [2.0, 1.5]
    assert extra_seconds(result) == [1.0, 2.0]
    assert stream_seconds(result) == 8.0


def stream(model: str, engine: str, first: float, later: float) -> VisitResult:
    return VisitResult(
        model=MODELS[model].title,
        engine=engine,
        shapes=[{"batch": 1}],
        first=[first],
        later=[[later]],
    )


def report(*results: VisitResult, threads: int = 1) -> ShapesReport:
    return ShapesReport(provenance=provenance(), threads=threads, results=list(results))


@pytest.mark.parametrize(("first", "missed"), [(1.04, False), (1.2, True), (1.00004, False)])
def test_goals_name_what_missed_them(first: float, missed: bool) -> None:
    results = [
        stream("mlp", "packhorse", first, 1.0),
        stream("mlp", "onnxruntime", 0.5, 0.5),
        stream("mlp", "openvino", 4.0, 1.0),
    ]
    out = tables.console()
    show_goals(out, results)
    lines = {line.split("│")[1].strip(): line for line in out.export_text().splitlines()[4:-1]}
    assert ("MLP x4" in lines["a first visit costs at most 1.05x or 50 µs more"]) == missed
    assert "MLP x4 (0.4" in lines["no stream below 0.97x onnxruntime"] or first == 1.00004
    assert "MLP" not in lines["no stream below 0.97x openvino"]


def test_runs_are_joined_in_the_order_of_the_registry(tmp_path: Path) -> None:
    files = []
    for name in ("mlp", "resnet50"):
        files.append(tmp_path / f"{name}.json")
        kept = report(*(stream(name, engine, 1.0, 1.0) for engine in FP32_ENGINES))
        files[-1].write_text(kept.model_dump_json())
    page = tmp_path / "page.md"
    arguments = [*(f"--join={file}" for file in files), f"--page={page}"]
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert 0 < text.index("ResNet-50") < text.index("MLP x4")
    files[0].write_text(report(stream("mlp", "packhorse", 1, 1), threads=2).model_dump_json())
    assert CliRunner().invoke(app, arguments).exit_code == 2


@given(count=st.integers(1, 41), parts=st.integers(1, 9))
def test_parts_of_a_stream_are_the_stream(count: int, parts: int) -> None:
    shapes = [{"batch": number} for number in range(count)]
    taken = [part_of(shapes, f"{number}/{parts}") for number in range(1, parts + 1)]
    assert list(itertools.chain(*taken)) == shapes


@pytest.mark.parametrize("part", ["", "1", "0/2", "3/2", "a/2", "1/2/3"])
def test_what_is_no_part_is_refused(part: str) -> None:
    with pytest.raises(typer.BadParameter, match="no part such as"):
        part_of([{"batch": 1}], part)


def test_parts_of_a_stream_are_joined() -> None:
    one, two = stream("mlp", "packhorse", 2.0, 1.0), stream("mlp", "packhorse", 5.0, 4.0)
    two = two.model_copy(update={"resident_before": 10, "resident_after": 30})
    other = stream("mlp", "openvino", 7.0, 7.0)
    result, same = joined([report(one, other), report(two)])
    assert (result.first, result.later) == ([2.0, 5.0], [[1.0], [4.0]])
    assert result.resident_after - result.resident_before == 20
    assert same == other
    two = two.model_copy(update={"failure": "killed"})
    assert joined([report(one), report(two)])[0].failure == "killed"
