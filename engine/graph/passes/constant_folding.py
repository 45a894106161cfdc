"""Constant folding.

- A node whose inputs are all constants is evaluated once, here. ``f(c1, .., cn) = c``.
- A value whose elements are known as dims, all of them constant, is that constant; this is how the
  shape arithmetic of an exporter disappears where the sizes do not depend on an input.
- An If whose condition is constant is its branch.

Preconditions: the operator is deterministic and has no subgraph that may not end; the result is not
much larger than what it is computed from (a model must not grow in memory because it contains
``Expand``), which needs the output's shape from inference, or an operator that never grows.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from engine.errors import ModelError, RunError
from engine.graph.ir import AnyArray, Graph, Node, Value, subgraphs
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import all_graphs, constant_array, constant_value
from engine.runtime.reference import ReferenceKernel

MAX_GROWTH: Final = 4
"""A folded result may have this many times the bytes of its inputs."""

ALWAYS_BYTES: Final = 1 << 20
"""A folded result of at most this many bytes is always kept."""

_RANDOM: Final = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

_NEVER_GROW: Final = frozenset(
    {
        "Cast",
        "Concat",
        "Flatten",
        "Identity",
        "Not",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators whose output is at most as large as their inputs, whatever its shape is."""


def constant_folding(graph: Graph) -> PassReport:
    """Fold constants in the graph and its subgraphs."""
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        changes += _fold_graph(inner, notes)
    return PassReport("constant_folding", changes, notes)


def _fold_graph(graph: Graph, notes: list[str]) -> int:
    changes = 0
    kept: list[Node] = []
    queue = list(reversed(graph.nodes))
    while queue:
        node = queue.pop()
        branch = _selected_branch(node)
        if branch is not None:
            queue.extend(reversed(_inline(node, branch)))
            changes += 1
            continue
        changes += _fold_dims(node)
        if not any(value.name for value in node.outputs):
            continue
        results = _evaluate(node, notes)
        if results is None:
            kept.append(node)
            continue
        for value, array in zip(node.outputs, results, strict=True):
            _become_constant(value, array)
        changes += 1
    graph.nodes = kept
    return changes


def _fold_dims(node: Node) -> int:
    """Turn outputs with constant dims into constants; their slots in the node become unused."""
    folded = 0
    for index, value in enumerate(node.outputs):
        dims, dtype = value.dims, value.dtype
        if not value.name or value.kind != "tensor" or dims is None or dtype is None:
            continue
        if value.shape is None or len(value.shape) > 1 or not all(d.is_constant for d in dims):
            continue
        data = np.array([d.value for d in dims], dtype)
        node.outputs[index] = Value("", dtype, value.shape, producer=node)
        _become_constant(value, data.reshape((len(dims),) if value.shape else ()))
        folded += 1
    return folded


def _become_constant(value: Value, array: AnyArray) -> None:
    fixed = constant_value(value.name, array)
    value.data, value.dtype, value.shape = fixed.data, fixed.dtype, fixed.shape
    value.producer = None
    if value.dims is not None and len(value.dims) != array.size:
        value.dims = None


def _evaluate(node: Node, notes: list[str]) -> list[AnyArray] | None:
    """Outputs of a node with constant inputs, None where it is not to be folded."""
    arrays = [constant_array(value) for value in node.inputs]
    if any(value is not None and value.data is None for value in node.inputs):
        return None
    if subgraphs(node) or node.domain or node.op in _RANDOM:
        return None
    if any(value.kind != "tensor" for value in node.outputs):
        return None
    if node.op == "Dropout" and len(arrays) > 2:
        return None
    if not _small_enough(node, arrays):
        notes.append(f"{node.label}: {node.key} of constants is too large to keep, or of no size")
        return None
    try:
        results = ReferenceKernel(node).run(arrays)
    except (ModelError, RunError) as error:
        notes.append(f"{node.label}: {node.key} of constants cannot be evaluated: {error}")
        return None
    if len(results) != len(node.outputs) or not all(isinstance(r, np.ndarray) for r in results):
        return None
    return [np.asarray(result) for result in results]


def _small_enough(node: Node, arrays: list[AnyArray | None]) -> bool:
    read = sum(array.nbytes for array in arrays if array is not None)
    if node.op in _NEVER_GROW:
        return True
    written = 0
    for value in node.outputs:
        if value.shape is None or not all(d.is_constant for d in value.shape):
            return False
        width = value.dtype.itemsize if value.dtype is not None else 8
        written += math.prod(d.value for d in value.shape) * width
    return written <= max(ALWAYS_BYTES, MAX_GROWTH * read)


def _selected_branch(node: Node) -> Graph | None:
    if node.op != "If" or node.domain:
        return None
    condition = constant_array(node.input(0))
    if condition is None or condition.size != 1:
        return None
    branch = node.attributes["then_branch" if condition.reshape(()) else "else_branch"]
    assert isinstance(branch, Graph)
    return branch


def _inline(node: Node, branch: Graph) -> list[Node]:
    """Nodes of a branch, computing the outputs of its If.

    Each is copied by an Identity, which a later pass removes where it can.
    """
    nodes = list(branch.nodes)
    for target, source in zip(node.outputs, branch.outputs, strict=True):
        if target.name:
            copy = Node("Identity", [source], [target], version=16)
            target.producer = copy
            nodes.append(copy)
    return nodes
