"""Lowering of tree ensembles: records of nodes, and masks of leaves where trees are small."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.graph.ir import AnyArray, Node
from engine.kernels import trees
from engine.kernels.trees import BLOCK, RECORD, scratch_bytes
from engine.plan.lower.operands import shape_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import Tensor

_WALK_NANOSECONDS: Final = 10
"""One row through one tree."""

_MASK_SIZES: Final = (32, 64)
_DUMMY: Final = np.zeros(1, np.int32)


@lowers("packhorse.Trees")
def lower_trees(node: Node, low: Lowering) -> None:
    """All arrays but x are constants."""
    arrays = [None if v is None else v.data for v in node.inputs[1:]]
    feature, threshold, children, missing, roots, weights, targets, base = arrays
    if any(a is None for i, a in enumerate(arrays) if i != 6):
        raise NoKernel("its trees are computed")
    assert feature is not None and threshold is not None and children is not None  # noqa: PT018
    assert missing is not None and roots is not None and weights is not None  # noqa: PT018
    assert base is not None
    shape_of(node.inputs[0])
    dtype = threshold.dtype.name
    if len(feature) * RECORD[dtype] >= 2**31:
        raise NoKernel(f"{len(feature)} nodes are more than offsets of 32 bits reach")
    outputs = "dense" if weights.ndim == 2 else "one" if targets is None else "single"
    masks = _masks(children, roots, len(weights)) if node.attribute("plain") else None
    options: dict[str, Any] = {
        "dtype": dtype,
        "leaves": 0 if masks is None else masks.bits,
        "missing": bool(missing.any()),
        "outputs": outputs,
        "aggregate": node.attribute("aggregate"),
    }
    x, y = low.read_dense(node.inputs[0]), low.write(node.outputs[0])
    itemsize = threshold.dtype.itemsize
    tensors: dict[str, Tensor] = {
        "base": low.constant(base, "base"),
        "records": low.constant(_records(feature, threshold, children, missing), "records"),
        "roots": low.constant(roots * RECORD[dtype], "roots"),
        "weights": low.constant(weights, "leaves"),
        "targets": low.constant(_DUMMY if targets is None else targets, "targets"),
    }
    words: dict[str, Dim | int] = {}
    used = 0
    if masks is not None:
        inner = feature[len(weights) :]
        columns, place = np.unique(inner, return_inverse=True)
        used = len(columns)
        words["used"] = used
        tensors["features"] = low.constant((columns * itemsize).astype(np.int32), "features")
        lines = (place * (BLOCK * itemsize)).astype(np.int32)
        tensors |= masks.tensors(low, lines, threshold, missing, len(weights))
    rows = x.shape[0]
    shares = 2 * low.threads if low.threads > 1 else 1
    block = minimum(maximum(ceildiv(rows, shares), 1), BLOCK)
    low.call(
        KernelSpec.of(trees.TREES.name, **options),
        items=ceildiv(rows, block),
        cost=block * (len(roots) * _WALK_NANOSECONDS),
        scratch=scratch_bytes(options, used, len(base)),
        writes="y",
        x=x,
        y=y,
        rows=rows,
        columns=int(feature.max(initial=0)) + 1,
        block=block,
        trees=len(roots),
        outputs=len(base),
        x_row=x.shape[1] * itemsize,
        **tensors,
        **words,
    )


def _records(
    feature: AnyArray, threshold: AnyArray, children: AnyArray, missing: AnyArray
) -> AnyArray:
    """Nodes as the kernel reads them: threshold, feature and flag, children."""
    size = threshold.dtype.itemsize
    record = RECORD[threshold.dtype.name]
    packed = np.zeros((len(feature), record), np.uint8)
    packed[:, :size] = threshold.reshape(-1, 1).view(np.uint8)
    flagged = (feature.astype(np.int64) * size) | (missing.astype(np.int64) << 31)
    words = np.stack([flagged, *(children.T.astype(np.int64) * record)], axis=1)
    packed[:, size : size + 12] = np.ascontiguousarray(words.astype(np.uint32)).view(np.uint8)
    return packed


class _Masks:
    """Which leaves stay possible where a node's condition fails, and the order of the nodes."""

    def __init__(self, bits: int, keep: AnyArray, tree: AnyArray, first: AnyArray) -> None:
        self.bits = bits
        self.keep = keep
        self.tree = tree
        self.first = first

    def tensors(
        self,
        low: Lowering,
        rows: AnyArray,
        threshold: AnyArray,
        missing: AnyArray,
        leaves: int,
    ) -> dict[str, Tensor]:
        """The kernel's arrays: nodes by tree, those where missing values go left behind."""
        flags = missing[leaves:]
        order = np.lexsort((flags, self.tree))
        trees = len(self.first)
        starts = np.searchsorted(self.tree[order], np.arange(trees + 1))
        flagged = np.bincount(self.tree, flags, trees).astype(np.int64)
        kind = np.uint32 if self.bits == 32 else np.uint64
        arrays = {
            "q_features": rows[order],
            "q_thresholds": threshold[leaves:][order],
            "q_masks": self.keep[order].astype(kind),
            "q_starts": starts.astype(np.int32),
            "q_splits": (starts[1:] - flagged).astype(np.int32),
            "q_first": self.first.astype(np.int32),
        }
        return {name: low.constant(array, name) for name, array in arrays.items()}


def _masks(children: AnyArray, roots: AnyArray, leaves: int) -> _Masks | None:
    """Masks for plain trees, None where one has more leaves than bits.

    Leaves are numbered from left to right, so those below a node are an interval.
    """
    count = len(children)
    tree = np.zeros(count, np.int64)
    frontier = roots.astype(np.int64)
    tree[frontier] = np.arange(len(roots))
    levels = []
    while frontier.size:
        inner = frontier[frontier >= leaves]
        levels.append(inner)
        frontier = children[inner].reshape(-1).astype(np.int64)
        tree[frontier] = np.repeat(tree[inner], 2)
    first, last = np.arange(count), np.arange(count)
    for inner in reversed(levels):
        first[inner] = first[children[inner, 0]]
        last[inner] = last[children[inner, 1]]
    most = int((last - first)[roots].max()) + 1
    bits = next((bits for bits in _MASK_SIZES if most <= bits), None)
    if bits is None:
        return None
    start = first[roots]
    left = children[leaves:, 0]
    shift = (first[left] - start[tree[leaves:]]).astype(np.uint64)
    length = (last[left] - first[left] + 1).astype(np.uint64)
    below = (np.uint64(1) << length) - np.uint64(1)
    return _Masks(bits, ~(below << shift), tree[leaves:], start)
