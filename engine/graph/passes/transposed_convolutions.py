"""Transposed convolutions of any form as convolutions.

The kernel for ConvTranspose takes one group, no dilation, explicit pads and constant weights. Every
other form is ``Conv(Pad(Z(x)), W')``: Z puts s - 1 zeros behind each pixel along an axis of stride
s, W' are the filters reversed in space with inputs and outputs exchanged within each group, and
``d (k - 1) - p`` zeros surround the image (V. Dumoulin and F. Visin, A guide to convolution
arithmetic, arXiv 1603.07285, section 4).

Where the pads follow from the size of the output (`output_shape`) and that of the input is open,
they are computed from it by nodes. Precondition: filters of a fixed size.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.passes.writer import NodeWriter

Pads = list[tuple[int, int]]

_FAR: Final = np.iinfo(np.int64).min
"""End of a slice that runs back to the first element."""


def transposed_convolutions(graph: Graph) -> PassReport:
    """Rewrite what the kernel does not take, in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "ConvTranspose" and not _is_plain(node):
                reason = _rewrite(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: ConvTranspose stays: {reason}")
        changes += rewriter.finish()
    return PassReport("transposed_convolutions", changes, notes)


def _is_plain(node: Node) -> bool:
    weight = node.input(1)
    if weight is None or weight.data is None or weight.data.ndim > 5:
        return False
    flat = all(step == 1 for step in node.attribute("dilations") or ())
    explicit = node.attribute("auto_pad", "NOTSET") == "NOTSET"
    explicit = explicit and not node.attribute("output_shape")
    return flat and explicit and node.attribute("group", 1) == 1


def _rewrite(rewriter: Rewriter, node: Node) -> str:
    x, weight = node.input(0), node.input(1)
    if x is None or weight is None or x.shape is None or weight.shape is None:
        return "the ranks are not known"
    if not all(dim.is_constant for dim in weight.shape) or len(weight.shape) < 3:
        return "its filters are of no fixed size"
    rank = len(weight.shape) - 2
    kernel = [dim.value for dim in weight.shape[2:]]
    strides = list(node.attribute("strides") or [1] * rank)
    dilations = list(node.attribute("dilations") or [1] * rank)
    extra = list(node.attribute("output_padding") or [0] * rank)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], strides, extents, extra)
    spread = _spread(rewriter, node, x, strides)
    behind = [e - 1 + more - (s - 1) for e, more, s in zip(extents, extra, strides, strict=True)]
    if pads is None:
        amounts = _computed_amounts(rewriter, node, x, strides, extents, extra, behind)
    else:
        first = [extent - 1 - begin for extent, (begin, _) in zip(extents, pads, strict=True)]
        last = [most - end for most, (_, end) in zip(behind, pads, strict=True)]
        amounts = rewriter.constant("pads", [0, 0, *first, 0, 0, *last])
    padded = rewriter.value(f"{node.label}_padded")
    pad = Node("Pad", [spread, amounts], [padded], version=13)
    rewriter.insert(node, pad)
    group = int(node.attribute("group", 1))
    filters = _filters(rewriter, node, weight, group)
    attributes = {"group": group, "dilations": dilations, "kernel_shape": kernel}
    inputs = [padded, filters, *node.inputs[2:]]
    rewriter.substitute(node, Node("Conv", inputs, [], attributes, version=11))
    return ""


def _pads(
    node: Node, sizes: tuple[Dim, ...], strides: list[int], extents: list[int], extra: list[int]
) -> Pads | None:
    """Pads of every axis by the formulas of ConvTranspose; None where a run decides them."""
    rank = len(sizes)
    mode = node.attribute("auto_pad", "NOTSET")
    wanted = node.attribute("output_shape")
    if mode == "VALID" and not wanted:
        return [(0, 0)] * rank
    if mode == "NOTSET" and not wanted:
        given = list(node.attribute("pads") or [0] * (2 * rank))
        return list(zip(given[:rank], given[rank:], strict=True))
    found: Pads = []
    for axis, size in enumerate(sizes):
        out = Dim.of(wanted[axis - rank]) if wanted else size * strides[axis]
        total = (size - 1) * strides[axis] + extra[axis] + extents[axis] - out
        if not total.is_constant:
            return None
        half, rest = total.value // 2, total.value - total.value // 2
        found.append((half, rest) if mode == "SAME_UPPER" else (rest, half))
    return found


def _computed_amounts(
    rewriter: Rewriter,
    node: Node,
    x: Value,
    strides: list[int],
    extents: list[int],
    extra: list[int],
    behind: list[int],
) -> Value:
    """Zeros around the image for an `output_shape`, from the size of the image; see `_pads`."""
    rank = len(strides)
    wanted = list(node.attribute("output_shape"))[-rank:]
    rest = [
        more + extent - stride - out
        for more, extent, stride, out in zip(extra, extents, strides, wanted, strict=True)
    ]
    writer = NodeWriter(rewriter, node)
    size = writer.emit("Slice", writer.emit("Shape", x, version=15), [2], [2 + rank], [0])
    total = writer.emit("Add", writer.emit("Mul", size, strides, version=14), rest, version=14)
    less = writer.emit("Div", total, [2] * rank, version=14)
    more = writer.emit("Sub", total, less, version=14)
    upper = node.attribute("auto_pad", "NOTSET") == "SAME_UPPER"
    begin, end = (less, more) if upper else (more, less)
    first = writer.emit("Sub", [extent - 1 for extent in extents], begin, version=14)
    last = writer.emit("Sub", behind, end, version=14)
    amounts = writer.emit("Concat", [0, 0], first, [0, 0], last, axis=0)
    for made in writer.nodes:
        rewriter.insert(node, made)
    return amounts


def _spread(rewriter: Rewriter, node: Node, x: Value, strides: list[int]) -> Value:
    """x with ``s - 1`` zeros behind every pixel along each axis of stride s."""
    if all(stride == 1 for stride in strides):
        return x
    rank = len(strides)
    # [N, C, d0, d1, ...] -> [N, C, d0, 1, d1, 1, ...] -> [N, C, d0, s0, d1, s1, ...]
    axes = [3 + 2 * axis for axis in range(rank)]
    split, zeros, joined = (rewriter.value(f"{node.label}_{n}") for n in ("s", "z", "j"))
    ends = [0] * (2 + 2 * rank)
    for axis, stride in zip(axes, strides, strict=True):
        ends[axis] = stride - 1
    amounts = rewriter.constant("pads", [0] * len(ends) + ends)
    wide = rewriter.constant("strides", [1, 1, *strides])
    shape, target = (rewriter.value(f"{node.label}_{n}") for n in ("shape", "target"))
    for made in (
        Node("Unsqueeze", [x, rewriter.constant("axes", axes)], [split], version=13),
        Node("Pad", [split, amounts], [zeros], version=13),
        Node("Shape", [x], [shape], version=15),
        Node("Mul", [shape, wide], [target], version=14),
        Node("Reshape", [zeros, target], [joined], {"allowzero": 1}, version=14),
    ):
        rewriter.insert(node, made)
    return joined


def _filters(rewriter: Rewriter, node: Node, weight: Value, group: int) -> Value:
    """[C, O / g, kernel...] as [O, C / g, kernel reversed...]."""
    assert weight.shape is not None
    inputs, outputs, *kernel = (dim.value for dim in weight.shape)
    split = [group, inputs // group, outputs, *kernel]
    order = [0, 2, 1, *range(3, len(split))]
    final = [group * outputs, inputs // group, *kernel]
    spatial = list(range(3, len(split)))
    if weight.data is not None:
        data = np.flip(weight.data.reshape(split), tuple(spatial)).transpose(order).reshape(final)
        return rewriter.constant(f"{weight.name}_reversed", np.ascontiguousarray(data))
    groups, back, turned, done = (rewriter.value(f"{node.label}_w{n}") for n in range(4))
    count = len(spatial)
    bounds = [
        rewriter.constant(name, numbers)
        for name, numbers in (
            ("starts", [-1] * count),
            ("ends", [int(_FAR)] * count),
            ("axes", spatial),
            ("steps", [-1] * count),
        )
    ]
    for made in (
        Node("Reshape", [weight, rewriter.constant("shape", split)], [groups], version=14),
        Node("Slice", [groups, *bounds], [back], version=13),
        Node("Transpose", [back], [turned], {"perm": order}, version=13),
        Node("Reshape", [turned, rewriter.constant("shape", final)], [done], version=14),
    ):
        rewriter.insert(node, made)
    return done
