"""Resizing of integers.

Kernels resample float32 and float64, so ``Resize(x) = whole(Resize(x as floats))``. How the results
become whole is what onnxruntime does:

- linear: cut off;
- antialiased: rounded half up (32 bits: half away from zero) and limited to the type's range after
  every axis, innermost first (the attribute ``whole``, which the lowering knows);
- cubic, which it refuses, as the onnx package: rounded half to even and limited to the range.

Where the exact result lies next to a whole number (or half of one), it may be the one beside that,
as onnxruntime's, whose sums are float32, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.body import Body, dtype_of
from engine.graph.standard.registry import expands

_TYPES: Final = ("int8", "uint8", "int32")
"""Integers that onnxruntime resamples."""


@expands("Resize")
def resize(b: Body) -> bool:
    """In float32."""
    x = b.input(0)
    dtype = dtype_of(x)
    mode = str(b.attribute("mode", "nearest"))
    if mode == "nearest" or dtype.name not in _TYPES:
        return False
    attributes = dict(b.node.attributes)
    stages = bool(b.attribute("antialias", 0))
    if stages:
        attributes["whole"] = dtype.name
    (result,) = b.several(b.node.op, 1, b.cast(x, np.float32), *b.node.inputs[1:], **attributes)
    b.nodes[-1].version = b.node.version
    if mode == "cubic" and not stages:
        info = np.iinfo(dtype)
        result = b("Round", result)
        result = b("Clip", result, b.like(info.min, result), b.like(info.max, result))
    b.give(0, b.cast(result, dtype))
    return True
