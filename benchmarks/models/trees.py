"""Ensembles of decision trees as ONNX models: drawn ones, and those that scikit-learn trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

DOMAIN = "ai.onnx.ml"


@dataclass
class TreeLists:
    """Attributes of a tree ensemble operator, filled tree by tree."""

    nodes: dict[str, list[Any]] = field(default_factory=dict)
    leaves: dict[str, list[Any]] = field(default_factory=dict)
    trees: int = 0

    def node(self, number: int, mode: str, **values: float) -> None:
        """A node of the current tree: feature, threshold, children, side of missing values."""
        row = {
            "treeids": self.trees,
            "nodeids": number,
            "modes": mode,
            "featureids": int(values.get("feature", 0)),
            "values": float(values.get("threshold", 0.0)),
            "truenodeids": int(values.get("true", 0)),
            "falsenodeids": int(values.get("false", 0)),
            "missing_value_tracks_true": int(values.get("missing", 0)),
        }
        for name, value in row.items():
            self.nodes.setdefault(f"nodes_{name}", []).append(value)

    def leaf(self, number: int, output: int, weight: float) -> None:
        """What a leaf of the current tree adds to an output."""
        row = {"treeids": self.trees, "nodeids": number, "ids": output, "weights": float(weight)}
        for name, value in row.items():
            self.leaves.setdefault(name, []).append(value)

    def attributes(self, kind: str) -> dict[str, Any]:
        """Attributes, with leaves under the prefix `kind` (target or class)."""
        return {**self.nodes, **{f"{kind}_{name}": v for name, v in self.leaves.items()}}


def drawn(
    seed: int,
    trees: int,
    leaves: int,
    features: int,
    outputs: int = 1,
    *,
    modes: tuple[str, ...] = ("BRANCH_LEQ",),
    missing: bool = False,
    shared: bool = False,
    positive: bool = False,
) -> TreeLists:
    """Random trees, grown leaf by leaf.

    A tree adds to the output of its number modulo `outputs`; with `shared` every leaf adds to all.
    """
    rng = np.random.default_rng(seed)
    made = TreeLists()
    for tree in range(trees):
        made.trees = tree
        open_leaves, children = [0], {}
        for number in range(1, 2 * leaves - 1, 2):
            parent = open_leaves.pop(int(rng.integers(len(open_leaves))))
            children[parent] = (number, number + 1)
            open_leaves += [number, number + 1]
        for number in range(2 * leaves - 1):
            if number in children:
                made.node(
                    number,
                    str(rng.choice(modes)),
                    feature=int(rng.integers(features)),
                    threshold=round(float(rng.normal()), 1),
                    true=children[number][0],
                    false=children[number][1],
                    missing=int(missing and rng.integers(2)),
                )
                continue
            made.node(number, "LEAF")
            for output in range(outputs) if shared else (tree % outputs,):
                weight = rng.normal() / trees
                made.leaf(number, output, abs(weight) if positive else weight)
    return made


def of_sklearn(trained: list[Any], scale: float = 1.0, *, classes: bool = False) -> TreeLists:
    """Trees of scikit-learn (``estimator.tree_``), one list entry per tree and output column.

    With `classes` leaves hold shares of every class, divided by the number of trees.
    """
    made = TreeLists()
    for number, (estimator, output) in enumerate(trained):
        made.trees = number
        tree = estimator.tree_
        for node in range(tree.node_count):
            if tree.children_left[node] < 0:
                made.node(node, "LEAF")
                held = tree.value[node][0]
                shares = held / held.sum() / len(trained) if classes else held * scale
                for column, share in enumerate(shares):
                    made.leaf(node, column if classes else output, share)
                continue
            made.node(
                node,
                "BRANCH_LEQ",
                feature=tree.feature[node],
                threshold=tree.threshold[node],
                true=tree.children_left[node],
                false=tree.children_right[node],
            )
    return made


def model(
    op: str,
    attributes: dict[str, Any],
    features: int,
    outputs: tuple[str, ...] = ("y",),
    *,
    dtype: int = TensorProto.FLOAT,
    version: int = 3,
) -> bytes:
    """Model of one operator of the domain on rows of features."""
    node = helper.make_node(op, ["x"], list(outputs), domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x", dtype, ["N", features])],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return bytes(made.SerializeToString())


def regressor(lists: TreeLists, features: int, targets: int = 1, **more: Any) -> bytes:
    """Model of a TreeEnsembleRegressor."""
    attributes = {**lists.attributes("target"), "n_targets": targets, **more}
    return model("TreeEnsembleRegressor", attributes, features)


def classifier(lists: TreeLists, features: int, labels: list[Any], **more: Any) -> bytes:
    """Model of a TreeEnsembleClassifier with outputs label and scores."""
    name = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    attributes = {**lists.attributes("class"), name: labels, **more}
    return model("TreeEnsembleClassifier", attributes, features, ("label", "scores"))
