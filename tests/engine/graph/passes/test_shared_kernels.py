"""Layers that differ in constants alone share a kernel, and compute what they did."""

from __future__ import annotations

from typing import Any

import numpy as np

import engine
from engine.codegen.expression import Expr
from engine.graph.passes import dead_code
from engine.graph.passes.fuse_elementwise import fuse_elementwise
from engine.graph.passes.fuse_epilogue import fuse_epilogue
from engine.graph.passes.shared_kernels import shared_kernels
from tests.engine.graph.support import after, assert_equal, build, node, normal, run_oracle, value


def layers(scales: list[float]) -> Any:
    """Products with a scale each, then a chain and a single operator with numbers of their own."""
    nodes, constants = [], {}
    last = "x"
    for i, scale in enumerate(scales):
        constants[f"w{i}"] = normal(6, 6, seed=i)
        constants[f"s{i}"] = np.array(scale, np.float32)
        constants[f"t{i}"] = np.array([scale / 3], np.float32)
        nodes += [
            node("MatMul", [last, f"w{i}"], [f"p{i}"]),
            node("Mul", [f"p{i}", f"s{i}"], [f"m{i}"]),
            node("Relu", [f"m{i}"], [f"r{i}"]),
            node("Transpose", [f"r{i}"], [f"c{i}"], perm=[1, 0]),
            node("Clip", [f"c{i}", "", f"t{i}"], [f"d{i}"]),
            node("Transpose", [f"d{i}"], [f"e{i}"], perm=[1, 0]),
        ]
        constants[f"t{i}"] = constants[f"t{i}"].reshape(())
        last = f"e{i}"
    nodes.append(node("Tanh", [last], ["y"]))
    return build(nodes, [value("x", ["n", 6])], [value("y", None)], constants)


def expressions(graph: Any) -> list[Expr]:
    found = [n.attribute("epilogue") or n.attribute("expression") for n in graph.nodes]
    return [expression for expression in found if expression is not None]


PASSES = (fuse_epilogue, fuse_elementwise, shared_kernels, dead_code)


def test_layers_share_kernels_and_results_stay() -> None:
    model = layers([0.5, 1.25, 3.0])
    graph, reports = after(model, PASSES)
    found = expressions(graph)
    assert len(found) >= 4
    assert len(set(found)) <= 3
    assert reports[2].changes >= 3
    x = normal(4, 6)
    session = engine.load(model.SerializeToString())
    assert_equal(session.run({"x": x})["y"], run_oracle(model, {"x": x})[0])


def test_equal_constants_stay_in_the_code() -> None:
    graph, reports = after(layers([0.5, 0.5]), PASSES)
    assert reports[2].changes == 0
    assert any(part.op == "constant" for e in expressions(graph) for part in e.nodes())
