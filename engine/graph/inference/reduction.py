"""Rules of reductions over axes."""

from __future__ import annotations

from functools import reduce
from typing import Any, Final

import numpy as np

from engine.graph.inference.arithmetic import binary
from engine.graph.inference.context import Inference, Unknown
from engine.graph.inference.registry import rule

_AXES_INPUT_SINCE: Final = {"ReduceSum": 13}
"""Opset since which the axes are an input; 18 for all others."""

_FOLDS: Final = {"ReduceSum": "Add", "ReduceProd": "Mul", "ReduceMax": "Max", "ReduceMin": "Min"}


@rule(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
def _reduction(node: Inference) -> None:
    shape = node.shape(0)
    keep = bool(node.attribute("keepdims", 1))
    if node.version < _AXES_INPUT_SINCE.get(node.node.op, 18):
        axes = list(node.attribute("axes") or [])
    elif node.has(1):
        try:
            axes = node.integers(1)
        except Unknown:
            if keep:
                node.output(0, node.unknown(0, len(shape)))
            raise
    else:
        axes = []
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            node.same_shape()
            return
        axes = list(range(len(shape)))
    reduced = {node.axis(axis, len(shape)) for axis in axes}
    if keep:
        node.output(0, (1 if axis in reduced else dim for axis, dim in enumerate(shape)))
    else:
        node.output(0, (dim for axis, dim in enumerate(shape) if axis not in reduced))
    _fold(node, keep)


def _fold(node: Inference, keep: bool) -> None:
    """Reduce the known elements of a vector, as exporters do to count elements."""
    found = node.state.known(node.value(0))
    fold = _FOLDS.get(node.node.op)
    dtype = node.dtype(0)
    if found is None or fold is None or found.ndim != 1 or not found.size or dtype.kind not in "if":
        return
    combine = binary(fold)

    def step(left: Any, right: Any) -> Any:
        return None if left is None or right is None else combine(left, right)

    result = np.empty((1,) if keep else (), object)
    result[...] = reduce(step, found)
    node.output(0, elements=result)


@rule("ArgMax", "ArgMin")
def _arg_reduction(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    middle = (1,) if node.attribute("keepdims", 1) else ()
    node.output(0, (*shape[:axis], *middle, *shape[axis + 1 :]))
