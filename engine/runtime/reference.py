"""Fallback evaluation: one node by the onnx package's reference implementation.

An operator without a kernel of ours runs here, in a segment of its own. It is slow and it holds the
GIL, but it makes every valid model run. Subgraphs are evaluated node by node by `Interpreter`, not
by the reference evaluator, whose Loop stacks scan outputs of more than one axis wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.errors import ModelError, RunError
from engine.graph.ir import OURS, Graph, Node, Value, subgraphs
from engine.runtime.control_flow import run_if, run_loop, run_old_scan, run_scan, run_sequence_map
from engine.runtime.corrections import correction
from engine.runtime.maps import map_operator
from engine.runtime.trees import evaluate_trees

_OWN: dict[str, Callable[..., Any]] = {
    "Inverse": np.linalg.inv,
    "Silu": lambda x: x / (1 + np.exp(-x)),
}
"""Operators of our domain, by formulas in numpy."""


class ReferenceKernel:
    """One node of the typed graph, ready to be evaluated any number of times.

    `operands` are the values that `run` expects arrays for: the node's inputs, then what its
    subgraphs capture. Raises ModelError where the operator has no reference implementation.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.operands: list[Value | None] = [*node.inputs, *captures(node)]
        self._call = interpreted(node) if subgraphs(node) else _operator(node)

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Outputs for the operands' arrays (lists for sequences, None where omitted).

        Outputs have the data types of the node's outputs where those are known. Raises RunError.
        """
        try:
            with np.errstate(all="ignore"):
                results = self._call(list(arrays))
                return [
                    _as_declared(result, value)
                    for result, value in zip(results, self.node.outputs, strict=False)
                ]
        except RunError:
            raise
        except Exception as error:
            shapes = ", ".join(_describe(array) for array in arrays)
            raise RunError(
                f"node {self.node.label!r} ({self.node.key}) failed on inputs {shapes}: {error}"
            ) from error


class Interpreter:
    """A whole graph, evaluated node by node; for subgraphs and as a test oracle."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._kernels = [ReferenceKernel(node) for node in graph.nodes]

    def run(self, inputs: Sequence[Any], captured: Sequence[Any] = ()) -> list[Any]:
        """Outputs for the graph's inputs and captures, in their order."""
        known: dict[int, Any] = {}
        for value, array in zip(self.graph.captures, captured, strict=True):
            known[id(value)] = array
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            known[id(value)] = array

        def lookup(value: Value | None) -> Any:
            if value is None:
                return None
            return value.data if value.data is not None else known[id(value)]

        for kernel in self._kernels:
            results = kernel.run([lookup(value) for value in kernel.operands])
            for value, array in zip(kernel.node.outputs, results, strict=False):
                known[id(value)] = array
        return [lookup(value) for value in self.graph.outputs]


def captures(node: Node) -> list[Value]:
    """Values that the subgraphs of a node capture, each once."""
    found = {id(value): value for graph in subgraphs(node) for value in graph.captures}
    return list(found.values())


def _operator(node: Node) -> Callable[[list[Any]], Sequence[Any]]:
    if node.domain == OURS and node.op == "Trees":
        return evaluate_trees(node)
    if node.domain == OURS and node.op in _OWN:
        formula = _OWN[node.op]
        return lambda arrays: [formula(*arrays)]
    own = correction(node) or map_operator(node)
    if own is not None:
        return own
    # Slow to import, and most models have no operator for it.
    from engine.runtime.operators import reference_operator

    return reference_operator(node)


def interpreted(node: Node) -> Callable[[list[Any]], Sequence[Any]]:
    """Control flow whose subgraphs are evaluated node by node."""
    own = len(node.inputs)
    order = [id(value) for value in captures(node)]
    graphs = {k: v for k, v in node.attributes.items() if isinstance(v, Graph)}
    bodies = {name: Interpreter(graph) for name, graph in graphs.items()}

    def body(name: str, arrays: list[Any]) -> Any:
        captured = [arrays[own + order.index(id(value))] for value in graphs[name].captures]
        return partial(bodies[name].run, captured=captured)

    return control_flow(node, body)


def control_flow(
    node: Node, body: Callable[[str, list[Any]], Any]
) -> Callable[[list[Any]], Sequence[Any]]:
    """If, Loop, Scan or SequenceMap over bodies that `body` gives by attribute name and operands.

    Raises ModelError for any other operator with subgraphs.
    """
    own = len(node.inputs)
    graphs = {k: v for k, v in node.attributes.items() if isinstance(v, Graph)}
    if node.op == "If" and not node.domain:
        return lambda arrays: run_if(
            arrays[:own], body("then_branch", arrays), body("else_branch", arrays)
        )
    if node.op == "Loop" and not node.domain:
        stacked = _row_types(graphs["body"], max(own - 2, 0) + 1)
        return lambda arrays: run_loop(_padded(arrays[:own], 2), body("body", arrays), stacked)
    if node.op == "Scan" and not node.domain:
        return _scan(node, own, graphs["body"], partial(body, "body"))
    if node.op == "SequenceMap" and not node.domain:
        count = len(node.outputs)
        return lambda arrays: run_sequence_map(arrays[:own], body("body", arrays), count)
    raise ModelError(
        f"node {node.label!r}: operator {node.key} (version {node.version}) with subgraphs is not "
        "supported; export the model with a newer opset"
    )


def _scan(
    node: Node, own: int, graph: Graph, body: Callable[[list[Any]], Any]
) -> Callable[[list[Any]], Sequence[Any]]:
    scanned = int(node.attributes["num_scan_inputs"])
    if node.version < 9:
        stacked = _row_types(graph, own - 1 - scanned)
        directions = node.attribute("directions", [0] * scanned)
        return lambda arrays: run_old_scan(arrays[:own], body(arrays), scanned, directions, stacked)
    states = own - scanned
    rows = len(graph.outputs) - states
    stacked = _row_types(graph, states)
    input_axes = node.attribute("scan_input_axes", [0] * scanned)
    input_directions = node.attribute("scan_input_directions", [0] * scanned)
    output_axes = node.attribute("scan_output_axes", [0] * rows)
    output_directions = node.attribute("scan_output_directions", [0] * rows)
    return lambda arrays: run_scan(
        arrays[:own],
        body(arrays),
        scanned,
        input_axes,
        input_directions,
        output_axes,
        output_directions,
        stacked,
    )


def _row_types(graph: Graph, skip: int) -> list[tuple[tuple[int, ...], Any]]:
    """Shape and data type of one row of every scan output; unknown sizes count as 0."""
    rows: list[tuple[tuple[int, ...], Any]] = []
    for value in graph.outputs[skip:]:
        dims = value.shape or ()
        shape = tuple(d.value if d.is_constant else 0 for d in dims)
        rows.append((shape, value.dtype or np.dtype(np.float32)))
    return rows


def _padded(arrays: list[Any], count: int) -> list[Any]:
    return arrays + [None] * (count - len(arrays))


def _as_declared(result: Any, value: Value) -> Any:
    if value.kind != "tensor" or result is None or isinstance(result, list | dict):
        return result
    array = np.asarray(result)
    if value.dtype is not None and array.dtype != value.dtype:
        return array.astype(value.dtype)
    return array


def _describe(array: Any) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype}{list(array.shape)}"
    return "none" if array is None else type(array).__name__
