from pathlib import Path

import numpy as np
import pytest

from engine.graph import passes
from engine.graph.ir import Graph
from engine.graph.passes import PassReport
from engine.graph.reader import read
from engine.graph.verify import GraphError, verify
from tests.conftest import models_folder
from tests.engine.graph.support import build, graph_of, node, value

REAL = sorted(models_folder().glob("*/*.onnx"))


@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_real_models_pass_and_settle(path: Path) -> None:
    graph = read(path)
    before = len(graph.nodes)
    reports = passes.run(graph, passes.CANONICAL, passes.CANONICAL_ROUNDS)
    verify(graph)
    assert len(reports) == len(passes.CANONICAL)
    assert len(graph.nodes) <= before
    assert not any(r.changes for r in passes.run(graph, passes.CANONICAL))


def simple() -> Graph:
    return graph_of(build([node("Relu", ["x"], ["y"])], [value("x", ["N"])], [value("y", ["N"])]))


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    def breaks(graph: Graph) -> PassReport:
        graph.nodes.clear()
        return PassReport("breaks", 1)

    with pytest.raises(GraphError, match="after pass breaks: output 'y'"):
        passes.run(simple(), [breaks])


def test_a_pass_must_keep_the_interface() -> None:
    def renames(graph: Graph) -> PassReport:
        graph.outputs[0].name = "other"
        return PassReport("renames", 1)

    with pytest.raises(GraphError, match="names of the graph's inputs or outputs"):
        passes.run(simple(), [renames])


def test_rounds_end_when_nothing_changes() -> None:
    calls: list[int] = []

    def counts(graph: Graph) -> PassReport:
        calls.append(1)
        return PassReport("counts", 1 if len(calls) < 3 else 0, [f"call {len(calls)}"])

    (report,) = passes.run(simple(), [counts], 10)
    assert len(calls) == 3
    assert (report.changes, report.notes) == (2, ["call 3"])


def test_shapes_are_inferred_before_the_first_pass() -> None:
    seen: list[object] = []

    def looks(graph: Graph) -> PassReport:
        seen.append((graph.outputs[0].dtype, str(graph.outputs[0].shape)))
        return PassReport("looks", 0)

    passes.run(simple(), [looks])
    assert seen == [(np.dtype(np.float32), str(simple().inputs[0].shape))]
