"""Rules of Fourier transforms."""

from __future__ import annotations

from engine.graph.inference.context import Inference, Unknown
from engine.graph.inference.registry import rule


@rule("DFT")
def _fourier(node: Inference) -> None:
    shape = node.shape(0)
    node.output(0, node.unknown(0, len(shape)))
    if node.version < 20:
        axis = node.attribute("axis", 1)
    else:
        axis = node.integers(2)[0] if node.has(2) else -2
    axis = node.axis(axis, len(shape))
    onesided, inverse = bool(node.attribute("onesided", 0)), bool(node.attribute("inverse", 0))
    length = shape[axis]
    if node.has(1):
        given = node.entries(1)[0]
        length = node.fresh(0, axis) if given is None else given
    elif onesided and inverse:
        length = (length - 1) * 2
    result = list(shape)
    result[axis] = length // 2 + 1 if onesided and not inverse else length
    result[-1] = result[-1] * 0 + (1 if onesided and inverse else 2)
    node.output(0, result)


@rule("STFT")
def _short_time_fourier(node: Inference) -> None:
    shape = node.shape(0)
    node.output(0, (shape[0], node.fresh(0, 1), node.fresh(0, 2), 2))
    step = node.scalar(1)
    if node.has(3):
        length = node.scalar(3)
        if node.has(2):
            length = node.require_equal(length, node.shape(2)[0], "frame_length and the window")
    elif node.has(2):
        length = node.shape(2)[0]
    else:
        length = shape[1]
    if step == 0:
        raise Unknown
    bins = length // 2 + 1 if node.attribute("onesided", 1) else length
    node.output(0, (shape[0], (shape[1] - length) // step + 1, bins, 2))
