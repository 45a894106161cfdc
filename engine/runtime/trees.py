"""``packhorse.Trees`` in numpy: all rows through all trees, level by level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph.ir import AnyArray, Node


def evaluate_trees(node: Node) -> Callable[[list[Any]], list[AnyArray]]:
    """Evaluation of a node; see `engine.graph.learning.trees` for the inputs."""
    combine = {"sum": np.add, "min": np.minimum, "max": np.maximum}[node.attribute("aggregate")]

    def run(arrays: list[Any]) -> list[AnyArray]:
        x, feature, threshold, children, missing, roots, weights, targets, base = arrays
        rows = np.arange(len(x))[:, None]
        place = np.broadcast_to(roots, (len(x), len(roots)))
        while True:
            value = x[rows, feature[place]]
            left = (value <= threshold[place]) | (np.isnan(value) & missing[place])
            reached = np.where(left, children[place, 0], children[place, 1])
            if np.array_equal(reached, place):
                break
            place = reached
        result = np.broadcast_to(base, (len(x), len(base))).astype(x.dtype)
        for tree in range(len(roots)):
            held = weights[place[:, tree]]
            if held.ndim == 2:
                result = combine(result, held)
            else:
                column = 0 if targets is None else targets[tree]
                result[:, column] = combine(result[:, column], held)
        return [result]

    return run
