"""Tree ensembles: ``packhorse.Trees`` gives the sums per row, standard operators do the rest.

``Trees(x, feature, threshold, children, missing, roots, weights, targets, base)`` is [rows,
outputs]: `base`, and for every tree, in their order, what the leaf holds that the row reaches
(`engine.graph.learning.ensemble`). The attribute `aggregate` combines them: sum, min or max.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.graph.body import Body, Unsupported, rank_of
from engine.graph.ir import OURS, AnyArray, Value
from engine.graph.learning.ensemble import (
    LEAF,
    MODES,
    Ensemble,
    MalformedError,
    Nodes,
    build,
    by_output,
)
from engine.graph.learning.registry import rewrites_as
from engine.graph.learning.scores import give_labels, transform

_AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _numbers(b: Body, name: str, default: Any = ()) -> AnyArray:
    """An attribute of floats, which a tensor may hold in double precision instead."""
    exact = b.attribute(f"{name}_as_tensor")
    if exact is not None and np.size(exact):
        return np.asarray(exact).reshape(-1)
    return np.asarray(b.attribute(name, default), np.float32)


def _listed(b: Body, kind: str) -> Nodes:
    """Nodes of the older operators: arrays with one entry per node, ids per tree."""
    trees = np.asarray(b.attribute("nodes_treeids"), np.int64)
    ids = np.asarray(b.attribute("nodes_nodeids"), np.int64)
    mode = np.array([MODES[text] for text in b.attribute("nodes_modes")], np.int8)
    width = int(max(ids.max(initial=0), 0)) + 1
    keys = trees * width + ids
    order = np.argsort(keys, kind="stable")
    if np.any(np.diff(keys[order]) == 0):
        raise MalformedError("two nodes have the same number")

    def find(tree: AnyArray, node: AnyArray) -> AnyArray:
        wanted = tree * width + node
        at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
        return np.where((keys[order][at] == wanted) & (node < width), order[at], -1)

    inner = mode != LEAF
    children = {}
    for side in ("true", "false"):
        given = np.asarray(b.attribute(f"nodes_{side}nodeids"), np.int64)
        children[side] = np.where(inner, find(trees, given), -1)
    missing = b.attribute("nodes_missing_value_tracks_true") or [0] * len(ids)
    weighted = {
        name: np.asarray(b.attribute(f"{kind}_{name}", []), np.int64)
        for name in ("treeids", "nodeids", "ids")
    }
    leaf = find(weighted["treeids"], weighted["nodeids"])
    _, first = np.unique(trees, return_index=True)
    entered = np.zeros(len(ids), bool)
    for child in children.values():
        entered[child[child >= 0]] = True
    starts = np.flatnonzero(~entered)
    # A tree begins with the node that no other leads to; the first listed where there are more.
    roots = {int(trees[index]): int(index) for index in starts[::-1]}
    if len(roots) != len(first):
        raise MalformedError("a tree has no root")
    return Nodes(
        mode=mode,
        feature=np.asarray(b.attribute("nodes_featureids"), np.int64),
        threshold=_numbers(b, "nodes_values"),
        true=children["true"],
        false=children["false"],
        missing=np.asarray(missing, bool),
        roots=np.array([roots[int(trees[index])] for index in np.sort(first)]),
        entries=(leaf, weighted["ids"], _numbers(b, f"{kind}_weights")),
        members={},
    )


def _ensemble(nodes: Nodes, outputs: int, dtype: Any) -> Ensemble:
    """Trees whose leaves are summed."""
    _check_lengths(nodes)
    return build(nodes, outputs, dtype, additive=True)


def _check_lengths(nodes: Nodes) -> None:
    count = len(nodes.mode)
    sizes = (nodes.feature, nodes.threshold, nodes.true, nodes.false, nodes.missing)
    if any(len(array) != count for array in sizes):
        raise MalformedError("its lists of nodes differ in length")
    if len({len(array) for array in nodes.entries}) > 1:
        raise MalformedError("its lists of leaves differ in length")


def _input(b: Body) -> tuple[Value, Any]:
    """Rows of features in the precision that the trees are walked in."""
    x = b.input(0)
    if rank_of(x) == 1:
        x = b("Unsqueeze", x, b.ints(0))
    if rank_of(x) != 2:
        raise Unsupported(f"its input has rank {rank_of(x)}")
    dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    return b.cast(x, dtype), dtype


def _emit(b: Body, x: Value, made: Ensemble, outputs: int, how: str, base: AnyArray) -> Value:
    """Nodes from rows of features to aggregated scores [rows, outputs]."""
    dtype = made.threshold.dtype
    start = {"SUM": base, "AVERAGE": np.zeros(outputs)}.get(how)
    if start is None:
        start = np.full(outputs, np.inf if how == "MIN" else -np.inf)
    arrays = (made.feature, made.threshold, made.children, made.missing, made.roots, made.weights)
    constants: list[Value | None] = [b.constant(array) for array in arrays]
    constants.append(None if made.targets is None else b.constant(made.targets))
    constants.append(b.constant(np.asarray(start, dtype)))
    y = b(
        "Trees",
        x,
        *constants,
        domain=OURS,
        aggregate=how.lower() if how in ("MIN", "MAX") else "sum",
        plain=int(made.plain),
    )
    if how == "AVERAGE":
        y = b("Mul", y, b.like(1 / len(made.roots), y))
    if how != "SUM" and base.any():
        y = b("Add", y, b.constant(base.astype(dtype)))
    return y


def _aggregated(b: Body, x: Value, nodes: Nodes, how: str, base: AnyArray) -> Value:
    """Aggregated leaves plus base values [rows, outputs].

    An extremum is taken over the trees that have leaves for an output, so each output is an
    ensemble of its own.
    """
    outputs, dtype = len(base), np.dtype(x.dtype)
    if how in ("SUM", "AVERAGE"):
        return _emit(b, x, _ensemble(nodes, outputs, dtype), outputs, how, base)
    _check_lengths(nodes)
    columns = []
    for output, trees in enumerate(by_output(nodes, outputs)):
        made = build(trees, 1, dtype, additive=False)
        columns.append(_emit(b, x, made, 1, how, base[output : output + 1]))
    return columns[0] if outputs == 1 else b("Concat", *columns, axis=1)


def _base(b: Body, outputs: int) -> AnyArray:
    base = _numbers(b, "base_values")
    if base.size == 0:
        return np.zeros(outputs)
    if base.size not in (1, outputs):
        raise MalformedError(f"{base.size} base values for {outputs} outputs")
    return np.broadcast_to(base, outputs).astype(np.float64)


@rewrites_as("TreeEnsembleRegressor")
def _regressor(b: Body) -> None:
    """Aggregated leaves plus base values, transformed."""
    outputs = int(b.attribute("n_targets", 1))
    how = b.attribute("aggregate_function", "SUM")
    x, _ = _input(b)
    y = _aggregated(b, x, _listed(b, "target"), how, _base(b, outputs))
    y = transform(b, y, _of_regression(b.attribute("post_transform", "NONE"), outputs))
    b.give(0, b.cast(y, np.float32))


@rewrites_as("TreeEnsemble")
def _trees(b: Body) -> None:
    """As the regressor, of trees whose leaves stand apart from their nodes."""
    outputs = int(b.attribute("n_targets", 1))
    how = _AGGREGATES[int(b.attribute("aggregate_function", 1))]
    x, _ = _input(b)
    y = _aggregated(b, x, _linked(b), how, np.zeros(outputs))
    name = _TRANSFORMS[int(b.attribute("post_transform", 0))]
    y = transform(b, y, _of_regression(name, outputs))
    b.give(0, b.cast(y, b.input(0).dtype))


def _of_regression(name: str, outputs: int) -> str:
    """The transform of a regression: a single output stays as it is, but for PROBIT.

    The specification does not except it; onnxruntime does, and exporters are tested with that.
    """
    return name if outputs > 1 or name == "PROBIT" else "NONE"


def _linked(b: Body) -> Nodes:
    """Nodes of the newer operator; a leaf becomes a node for everyone that leads to it."""
    splits = np.asarray(b.attribute("nodes_splits")).reshape(-1)
    mode = np.asarray(b.attribute("nodes_modes")).reshape(-1).astype(np.int8)
    if mode.size and not (mode.min() >= 0 and mode.max() <= 6):
        raise MalformedError("a node has an unknown mode")
    count = len(mode)
    targets = np.asarray(b.attribute("leaf_targetids"), np.int64)
    weights = np.asarray(b.attribute("leaf_weights")).reshape(-1)
    children, held = {}, []
    total = count
    for side in ("true", "false"):
        child = np.asarray(b.attribute(f"nodes_{side}nodeids"), np.int64).copy()
        ends = np.asarray(b.attribute(f"nodes_{side}leafs"), np.int64).astype(bool)
        held.append(child[ends])
        child[ends] = np.arange(total, total + ends.sum())
        total += int(ends.sum())
        children[side] = child
    leaf = np.concatenate(held)
    if leaf.size and not (leaf.min() >= 0 and leaf.max() < len(targets)):
        raise MalformedError("a node leads to a leaf that does not exist")
    more = np.zeros(total - count, np.int64)
    missing = b.attribute("nodes_missing_value_tracks_true") or [0] * count
    return Nodes(
        mode=np.concatenate([mode, np.full(len(more), LEAF, np.int8)]),
        feature=np.concatenate([np.asarray(b.attribute("nodes_featureids"), np.int64), more]),
        threshold=np.concatenate([splits, more.astype(splits.dtype)]),
        true=np.concatenate([children["true"], more - 1]),
        false=np.concatenate([children["false"], more - 1]),
        missing=np.concatenate([np.asarray(missing, bool), more.astype(bool)]),
        roots=np.asarray(b.attribute("tree_roots"), np.int64),
        entries=(np.arange(count, total), targets[leaf], weights[leaf]),
        members=_members(b, mode),
    )


def _members(b: Body, mode: AnyArray) -> dict[int, AnyArray]:
    """The sets, which follow each other in one list with NaN between them."""
    given = b.attribute("membership_values")
    if given is None:
        return {}
    values = np.asarray(given).reshape(-1)
    sets = np.split(values, np.flatnonzero(np.isnan(values)))
    nodes = np.flatnonzero(mode == 6)
    if len(sets) < len(nodes):
        raise MalformedError("a set of members is missing")
    return {int(node): values for node, values in zip(nodes, sets, strict=False)}


@rewrites_as("TreeEnsembleClassifier")
def _classifier(b: Body) -> None:
    """Scores per class, and the label of the best; two classes may share one score."""
    labels = b.attribute("classlabels_int64s") or b.attribute("classlabels_strings")
    if not labels or len(labels) < 2:
        raise Unsupported("it has fewer than two labels")
    x, dtype = _input(b)
    nodes = _listed(b, "class")
    count = len(labels)
    classes = np.unique(nodes.entries[1])
    transformed = b.attribute("post_transform", "NONE")
    base = _numbers(b, "base_values")
    if count == 2:
        _two_classes(b, x, nodes, labels, transformed, base)
        return
    if not base.size and not bool((nodes.entries[2] >= 0).all()) and len(classes) < count:
        raise Unsupported("a class without a weight competes with negative scores")
    made = _ensemble(nodes, count, dtype)
    scores = b.cast(_emit(b, x, made, count, "SUM", _base(b, count)), np.float32)
    give_labels(b, scores, labels)
    b.give(1, transform(b, scores, transformed))


def _two_classes(
    b: Body,
    x: Value,
    nodes: Nodes,
    labels: list[Any],
    transformed: str,
    base: AnyArray,
) -> None:
    """Labels and scores of two classes, which depend on who has weights.

    - Only the first class: its sum s is the score of the *second*, and the first's is ``-s``, or
      ``1 - s`` where all weights are positive (before a LOGISTIC transform always ``-s``). With two
      base values, the scores are s and 0 instead.
    - Only the second: the scores are 0 and s; a single base value is not used.
    - Both: a single base value belongs to the first; of two, the second is added to the first's
      sum, which becomes the second's score and, negated, the first's.

    The label is the second where the deciding score is above 0, or 1/2 where one class alone has
    weights and all are positive. The operator's specification leaves these cases open; this is what
    onnxruntime does, but that it gives 0 and 1 for any integer labels where both have weights.
    """
    dtype = np.dtype(x.dtype)
    classes = {int(c) for c in np.unique(nodes.entries[1])}
    positive = bool((nodes.entries[2] >= 0).all())
    limit = 0.5 if positive and len(classes) == 1 else 0.0
    if classes == {0} and base.size < 2:
        if transformed == "PROBIT":
            raise Unsupported("PROBIT of one score for two classes is not defined")
        made = _ensemble(nodes, 1, dtype)
        score = b.cast(_emit(b, x, made, 1, "SUM", _base(b, 1)), np.float32)
        logistic = transformed == "LOGISTIC"
        inverse = positive and not logistic
        other = b("Sub", b.like(1, score), score) if inverse else b("Neg", score)
        both = b("Concat", other, score, axis=1)
        scores = b("Sigmoid", both) if logistic else both
    else:
        if classes == {1} and base.size > 1:
            raise Unsupported("two base values where only the second class has weights")
        made = _ensemble(nodes, 2, dtype)
        first = base[0] if base.size and 0 in classes else 0.0
        crossed = len(classes) == 2 and base.size == 2
        start = np.array([base[1] if crossed else first, 0.0])
        both = b.cast(_emit(b, x, made, 2, "SUM", start), np.float32)
        score = _column(b, both, 1 if classes != {0} and not crossed else 0)
        if crossed:
            both = b("Concat", b("Neg", score), score, axis=1)
        scores = transform(b, both, transformed)
    above = b("Greater", b.reshape(score, -1), b.like(limit, score))
    give_labels(b, None, labels, b.cast(above, np.int64))
    b.give(1, scores)


def _column(b: Body, scores: Value, index: int) -> Value:
    return b("Slice", scores, b.ints(index), b.ints(index + 1), b.ints(1))
