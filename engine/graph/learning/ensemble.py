"""Decision trees of a model file, as the arrays that kernels walk.

Every condition becomes ``x <= threshold``, true to the left:

- ``x < t`` is ``x <= p`` with p the number before t; ``x >= t`` and ``x > t`` are the negations of
  ``x < t`` and ``x <= t`` and swap the children;
- ``x == t`` is ``x <= t`` and not ``x <= p``: a second node; ``x != t`` swaps its children, and
  membership of a set is a chain of such tests.

A missing value (NaN) fails every comparison but ``!=``; a node may say that it takes the true side.

Leaves come first, from left to right per tree, then the other nodes, level by level per tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.graph.body import Unsupported
from engine.graph.ir import AnyArray

LEAF: Final = -1
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
MODES: Final = {
    "LEAF": LEAF,
    "BRANCH_LEQ": LEQ,
    "BRANCH_LT": LT,
    "BRANCH_GTE": GTE,
    "BRANCH_GT": GT,
    "BRANCH_EQ": EQ,
    "BRANCH_NEQ": NEQ,
}


class MalformedError(Exception):
    """The arrays of a file do not describe trees; the text says why."""


@dataclass
class Nodes:
    """Nodes as a file has them: `true` and `false` are indices, -1 at leaves.

    `entries` lists leaf, output and weight of everything that leaves add. `members` holds the set
    of each node of mode MEMBER.
    """

    mode: AnyArray
    feature: AnyArray
    threshold: AnyArray
    true: AnyArray
    false: AnyArray
    missing: AnyArray
    roots: AnyArray
    entries: tuple[AnyArray, AnyArray, AnyArray]
    members: dict[int, AnyArray]


@dataclass
class Ensemble:
    """Trees in the form described above.

    `children` [nodes, 2] holds left and right, a leaf's are itself. `weights` is [leaves] where a
    leaf adds to the one output, or to `targets` of its tree; else [leaves, outputs]. `plain` says
    that no node has two parents and no threshold is NaN.
    """

    feature: AnyArray
    threshold: AnyArray
    children: AnyArray
    missing: AnyArray
    roots: AnyArray
    weights: AnyArray
    targets: AnyArray | None
    plain: bool

    @property
    def leaves(self) -> int:
        """Number of leaves, which are the first nodes."""
        return len(self.weights)


def by_output(nodes: Nodes, outputs: int) -> list[Nodes]:
    """For each output the trees that have leaves for it, of which it is the only one.

    Raises `Unsupported` where an output has none, and MalformedError.
    """
    _check(nodes, outputs)
    leaf, target, weight = nodes.entries
    tree = np.zeros(len(nodes.mode), np.int64)
    for frontier, numbers in _levels(nodes):
        tree[frontier] = numbers
    found = []
    for output in range(outputs):
        mine = (target == output) & (leaf >= 0)
        kept = np.unique(tree[leaf[mine]])
        if not kept.size:
            raise Unsupported(f"no leaf has a weight for the output {output}")
        entries = (leaf[mine], np.zeros(np.count_nonzero(mine), np.int64), weight[mine])
        found.append(replace(nodes, roots=nodes.roots[kept], entries=entries))
    return found


def build(nodes: Nodes, outputs: int, dtype: Any, additive: bool) -> Ensemble:
    """The ensemble of `nodes`, computing with `dtype`. Raises MalformedError.

    `additive` says that leaves are summed, so that one without a weight adds 0; else every leaf
    needs one weight, and there is one output: where not, `Unsupported` is raised.
    """
    _check(nodes, outputs)
    levels = _levels(nodes)
    order, first = _numbering(nodes, levels)
    place = np.full(len(nodes.mode), -1, np.int64)
    place[order] = np.arange(len(order))
    mode, threshold = nodes.mode[order], nodes.threshold[order].astype(dtype)
    true, false = place[nodes.true[order]], place[nodes.false[order]]
    missing = nodes.missing[order].astype(bool)
    inner = mode != LEAF
    swapped = np.isin(mode, (GTE, GT, NEQ))
    left, right = np.where(swapped, false, true), np.where(swapped, true, false)
    missing = np.where(mode == NEQ, False, missing ^ np.isin(mode, (GTE, GT))) & inner
    strict = np.isin(mode, (LT, GTE))
    if np.any(strict & ~(threshold > -np.inf)):
        raise MalformedError("a threshold is NaN or negative infinity")
    lower = np.nextafter(threshold, np.asarray(-np.inf, dtype))
    threshold = np.where(strict, lower, threshold)
    own = np.arange(len(order))
    left, right = np.where(inner, left, own), np.where(inner, right, own)
    threshold = np.where(inner, threshold, np.asarray(np.inf, dtype))
    feature = np.where(inner, nodes.feature[order], 0)
    made = _Growing(feature, threshold, left, right, missing, lower)
    made.split_equalities(np.flatnonzero(np.isin(mode, (EQ, NEQ))))
    for index in np.flatnonzero(mode == MEMBER):
        made.split_membership(int(index), nodes.members[int(order[index])].astype(dtype))
    weights, targets = _weights(nodes, place, first, outputs, dtype, additive)
    plain = not np.any(np.isin(mode, (EQ, NEQ, MEMBER))) and not np.any(np.isnan(threshold))
    return Ensemble(
        made.feature.astype(np.int32),
        made.threshold.astype(dtype),
        np.stack([made.left, made.right], axis=1).astype(np.int32),
        made.missing,
        place[nodes.roots].astype(np.int32),
        weights,
        targets,
        plain,
    )


def _check(nodes: Nodes, outputs: int) -> None:
    count = len(nodes.mode)
    inner = nodes.mode != LEAF
    for children in (nodes.true[inner], nodes.false[inner]):
        if children.size and not (children.min() >= 0 and children.max() < count):
            raise MalformedError("a child of a node does not exist")
    if inner.any() and nodes.feature[inner].min() < 0:
        raise MalformedError("a node reads a negative feature")
    _, targets, _ = nodes.entries
    if targets.size and not (targets.min() >= 0 and targets.max() < outputs):
        raise MalformedError(f"a leaf adds to an output beyond the {outputs} there are")
    if not len(nodes.roots):
        raise MalformedError("there are no trees")


def _levels(nodes: Nodes) -> list[tuple[AnyArray, AnyArray]]:
    """Nodes of each depth from the roots on, with the numbers of their trees."""
    seen = np.zeros(len(nodes.mode), bool)
    frontier, trees = nodes.roots.astype(np.int64), np.arange(len(nodes.roots))
    levels: list[tuple[AnyArray, AnyArray]] = []
    while frontier.size:
        if seen[frontier].any() or len(np.unique(frontier)) < len(frontier):
            raise MalformedError("a node is reached twice, so this is no tree")
        seen[frontier] = True
        levels.append((frontier, trees))
        inner = nodes.mode[frontier] != LEAF
        parents, trees = frontier[inner], np.tile(trees[inner], 2)
        frontier = np.concatenate([nodes.true[parents], nodes.false[parents]])
    return levels


def _numbering(nodes: Nodes, levels: list[tuple[AnyArray, AnyArray]]) -> tuple[AnyArray, AnyArray]:
    """Old numbers in the new order, and the first leaf of each tree (one more at the end)."""
    swapped = np.isin(nodes.mode, (GTE, GT, NEQ))
    left = np.where(swapped, nodes.false, nodes.true)
    right = np.where(swapped, nodes.true, nodes.false)
    leaf = nodes.mode == LEAF
    below = np.zeros(len(nodes.mode), np.int64)
    for frontier, _ in reversed(levels):
        inner = frontier[~leaf[frontier]]
        below[frontier[leaf[frontier]]] = 1
        below[inner] = below[left[inner]] + below[right[inner]]
    first = np.concatenate([[0], np.cumsum(below[nodes.roots])])
    position = np.zeros(len(nodes.mode), np.int64)
    position[nodes.roots] = first[:-1]
    for frontier, _ in levels:
        inner = frontier[~leaf[frontier]]
        position[left[inner]] = position[inner]
        position[right[inner]] = position[inner] + below[left[inner]]
    every = np.concatenate([frontier for frontier, _ in levels])
    trees = np.concatenate([numbers for _, numbers in levels])
    depth = np.repeat(np.arange(len(levels)), [len(frontier) for frontier, _ in levels])
    ends = leaf[every]
    leaves = every[ends]
    leaves = leaves[np.argsort(position[leaves])]
    inner = every[~ends][np.lexsort((depth[~ends], trees[~ends]))]
    return np.concatenate([leaves, inner]), first


def _weights(
    nodes: Nodes, place: AnyArray, first: AnyArray, outputs: int, dtype: Any, additive: bool
) -> tuple[AnyArray, AnyArray | None]:
    leaf, target, weight = nodes.entries
    row = place[leaf]
    count = int(first[-1])
    used = (row >= 0) & (row < count)
    row, target, weight = row[used], target[used], weight[used]
    if not additive and (outputs > 1 or len(np.unique(row)) < max(count, len(row))):
        raise Unsupported("an extremum of leaves needs one output and one weight per leaf")
    tree = np.searchsorted(first, row, side="right") - 1
    targets = np.zeros(len(first) - 1, np.int32)
    targets[tree] = target
    if outputs == 1 or np.array_equal(targets[tree], target):
        weights = np.zeros(count, dtype)
        np.add.at(weights, row, weight.astype(dtype))
        return weights, None if outputs == 1 else targets
    weights = np.zeros((count, outputs), dtype)
    np.add.at(weights, (row, target), weight.astype(dtype))
    return weights, None


class _Growing:
    """Arrays of nodes to which more are appended."""

    def __init__(
        self,
        feature: AnyArray,
        threshold: AnyArray,
        left: AnyArray,
        right: AnyArray,
        missing: AnyArray,
        lower: AnyArray,
    ) -> None:
        self.feature, self.threshold = feature, threshold
        self.left, self.right, self.missing = left, right, missing
        self.lower = lower

    def _append(
        self, feature: AnyArray, threshold: AnyArray, left: AnyArray, right: AnyArray
    ) -> AnyArray:
        start = len(self.feature)
        self.feature = np.concatenate([self.feature, feature])
        self.threshold = np.concatenate([self.threshold, threshold])
        self.left = np.concatenate([self.left, left])
        self.right = np.concatenate([self.right, right])
        self.missing = np.concatenate([self.missing, np.zeros(len(feature), bool)])
        return np.arange(start, start + len(feature))

    def split_equalities(self, nodes: AnyArray) -> None:
        """Nodes whose left child is for equality: a second one tells smaller values apart."""
        if nodes.size:
            equal, other = self.left[nodes], self.right[nodes]
            second = self._append(self.feature[nodes], self.lower[nodes], other, equal)
            self.left[nodes] = second

    def split_membership(self, node: int, members: AnyArray) -> None:
        """A node whose left child is for members of a set: one test of equality per member."""
        members = members[~np.isnan(members)]
        equal, other = self.left[node], self.right[node]
        missing = bool(self.missing[node])
        if not members.size:
            raise MalformedError("a set has no members")
        feature = self.feature[node]
        after = other
        for index in range(len(members) - 1, -1, -1):
            value = members[index : index + 1]
            lower = np.nextafter(value, np.asarray(-np.inf, value.dtype))
            one = np.array([feature])
            (second,) = self._append(one, lower, np.array([after]), np.array([equal]))
            if index == 0:
                self.threshold[node] = value[0]
                self.left[node], self.right[node] = second, after
                self.missing[node] = missing
            else:
                (after,) = self._append(one, value, np.array([second]), np.array([after]))
