"""Lowering of Pad: a copy into a window, and a frame around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, minimum
from engine.graph.ir import OURS, Node
from engine.kernels import halo
from engine.kernels.odometer import outer_rank
from engine.plan.lower.copies import axis_words, emit_copy, emit_frame, merged_axes
from engine.plan.lower.operands import checked, constants, integers, shape_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ZERO, Tensor, product

_MODES: Final = ("constant", "reflect", "edge", "wrap")


@dataclass(frozen=True)
class _Pads:
    """Elements added along an axis on either side; negative ones are taken away."""

    before: Dim
    after: Dim


def repeated_bytes(element: np.ndarray[Any, Any]) -> int:
    """One element of 1, 2, 4 or 8 bytes, repeated to a word of 8."""
    content = np.ascontiguousarray(element).tobytes()
    return int.from_bytes(content * (8 // len(content)), "little", signed=True)


def _pads(node: Node, rank: int) -> list[_Pads]:
    pads = integers(node, 1, "pads")
    axes = integers(node, 3, "axes", list(range(rank)))
    if pads is None or axes is None:
        raise NoKernel("pads are omitted")
    found = [_Pads(ZERO, ZERO)] * rank
    half = len(pads) // 2
    for axis, before, after in zip(constants(axes, "axes"), pads[:half], pads[half:], strict=True):
        found[axis % rank] = _Pads(before, after)
    return found


def _pattern(node: Node) -> int | Dim:
    """The padding element repeated to a word of 8 bytes.

    For ``packhorse.Pad``, input 2 is that word.
    """
    source = node.inputs[0]
    assert source is not None
    value = node.input(2)
    if node.domain == OURS:
        word = integers(node, 2, "value")
        assert word is not None
        return word[0]
    if value is None:
        element = np.asarray(node.attribute("value", 0.0)).astype(source.dtype)
    elif value.data is not None:
        element = np.asarray(value.data, source.dtype)
    else:
        raise NoKernel(f"the padding value {value.name} is known only at run time")
    return repeated_bytes(element.reshape(-1)[:1])


@lowers("Pad", f"{OURS}.Pad")
def lower_pad(node: Node, low: Lowering) -> None:
    """Constant borders, or borders that repeat what lies inside."""
    checked(node)
    shape = shape_of(node.inputs[0])
    pads = _pads(node, len(shape))
    mode = str(node.attribute("mode", "constant"))
    if mode not in _MODES:
        raise NoKernel(f"mode {mode}")
    pattern = _pattern(node) if mode == "constant" else 0
    source, whole = low.read(node.inputs[0]), low.write(node.outputs[0])
    window = whole
    for axis, pad in enumerate(pads):
        cut, cut_end = minimum(pad.before, ZERO), minimum(pad.after, ZERO)
        length = source.shape[axis] + cut + cut_end
        source = source.window(axis, -cut, length)
        window = window.window(axis, pad.before - cut, length)
        pads[axis] = _Pads(pad.before - cut, pad.after - cut_end)
    emit_copy(low, source, window)
    if mode == "constant":
        emit_frame(low, whole, window, pattern)
        return
    for axis in reversed(range(len(pads))):
        if pads[axis] != _Pads(ZERO, ZERO):
            _emit_border(low, mode, whole, pads, axis, window.shape)


def _emit_border(
    low: Lowering, mode: str, whole: Tensor, pads: list[_Pads], axis: int, inside: tuple[Dim, ...]
) -> None:
    """Fill the borders along `axis`; those of the axes within are filled already."""
    lines = whole
    for outer in range(axis):
        lines = lines.window(outer, pads[outer].before, inside[outer])
    shape, strides = lines.shape[:axis], lines.strides[:axis]
    axes = merged_axes(Tensor(whole.dtype, shape, strides, whole.buffer))
    rank = outer_rank(len(axes))
    step = whole.strides[axis] * whole.itemsize
    pad = pads[axis]
    low.call(
        KernelSpec.of(halo.BORDER.name, rank=rank, mode=mode),
        items=product([outer.length for outer in axes]) * (pad.before + pad.after),
        cost=step // 8 + 4,
        writes="y",
        y=lines,
        before=pad.before,
        after=pad.after,
        size=inside[axis],
        step=step,
        **axis_words(rank, axes, "y", [whole.itemsize]),
    )
