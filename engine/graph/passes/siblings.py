"""Narrow convolutions of one input become one.

For convolutions ``y_i = e(W_i * x)`` that differ in weights and per-channel constants alone,
``concat(y_i) = e(concat(W_i) * x)`` along the channels: the heads of detectors, two to a dozen
channels each. Together they read x once and leave fewer lanes of a vector empty; the results are
windows of the joint one. Sums do not change, and so bytes do not.

Preconditions: ``packhorse.Conv`` of one input with equal attributes and epilogue, no groups,
constant weights, epilogues that read constants per channel or equal scalars alone; at most `MOST`
channels each. Only where fewer vectors of channels result.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

MOST: Final = 16
"""Channels of a narrow convolution: the lanes of the widest vector."""


def siblings(graph: Graph) -> PassReport:
    """Join in the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        groups: dict[Hashable, list[Node]] = {}
        for node in rewriter.nodes():
            key = _key(node)
            if key is not None:
                groups.setdefault(key, []).append(node)
        for nodes in groups.values():
            if _vectors(sum(map(_channels, nodes))) < sum(_vectors(_channels(n)) for n in nodes):
                _join(rewriter, nodes)
        changes += rewriter.finish()
    return PassReport("siblings", changes, [])


def _channels(node: Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.data is not None
    return int(weight.data.shape[0])


def _vectors(channels: int) -> int:
    return -(-channels // MOST)


def _key(node: Node) -> Hashable | None:
    """What convolutions that can be joined have in common; None for any other node."""
    if node.key != "packhorse.Conv" or node.attribute("group", 1) != 1:
        return None
    weight = node.inputs[1]
    if weight is None or weight.data is None or _channels(node) > MOST:
        return None
    scalars = []
    access = node.attribute("access", [])
    for kind, value in zip(access, node.inputs[2:], strict=True):
        if value is None or value.data is None or kind == "tile":
            return None
        scalars.append(value.data.tobytes() if kind == "scalar" else b"")
    epilogue = node.attribute("epilogue")
    attributes = {
        name: value
        for name, value in node.attributes.items()
        if name not in ("epilogue", "access", "kernel_shape")
    }
    return (
        id(node.inputs[0]),
        weight.data.shape[1:],
        weight.dtype,
        repr(sorted(attributes.items())),
        None if epilogue is None else repr(epilogue.to_json()),
        tuple(access),
        tuple(scalars),
    )


def _join(rewriter: Rewriter, nodes: list[Node]) -> None:
    first = nodes[0]
    inputs: list[Value | None] = [first.inputs[0]]
    kinds = ["column", *first.attribute("access", [])]
    for place, kind in enumerate(kinds, start=1):
        values = [node.inputs[place] for node in nodes]
        if kind == "scalar":
            inputs.append(values[0])
            continue
        arrays: list[Any] = [value.data for value in values if value is not None]
        assert values[0] is not None
        inputs.append(rewriter.constant(values[0].name, np.concatenate(arrays)))
    outputs = [node.outputs[0] for node in nodes]
    joint = rewriter.value(f"{first.label}.joint", outputs[0])
    assert outputs[0].shape is not None
    sizes = [_channels(node) for node in nodes]
    joint.shape = (*outputs[0].shape[:-1], Dim.of(sum(sizes)))
    made = Node(first.op, inputs, [joint], dict(first.attributes), OURS, first.version, first.name)
    lengths = rewriter.constant("channels", sizes)
    split = Node("Split", [joint, lengths], outputs, {"axis": len(joint.shape) - 1}, "", 13)
    for other in nodes[1:]:
        rewriter.remove(other)
    rewriter.replace(first, [made, split])
