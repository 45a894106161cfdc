"""Transposed convolution in numpy for the fallback path.

The onnx package's reference implementation fails with groups and places explicit output shapes
differently from the specification (ConvTranspose-22), which this one follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.graph.ir import AnyArray


def conv_transpose(
    attributes: Mapping[str, Any], x: AnyArray, w: AnyArray, bias: AnyArray | None
) -> AnyArray:
    """Transposed convolution of x [N, C, S...] with w [C, M/group, K...]; bias [M]."""
    spatial, kernel = x.shape[2:], w.shape[2:]
    rank = len(spatial)
    groups = int(attributes.get("group", 1))
    strides = attributes.get("strides") or [1] * rank
    dilations = attributes.get("dilations") or [1] * rank
    extra = attributes.get("output_padding") or [0] * rank
    sizes = [
        (size - 1) * stride + (k - 1) * dilation + 1 + more
        for size, stride, k, dilation, more in zip(
            spatial, strides, kernel, dilations, extra, strict=True
        )
    ]
    grouped = x.reshape(x.shape[0], groups, -1, *spatial)
    weights = w.reshape(groups, -1, *w.shape[1:])
    full = np.zeros((x.shape[0], groups, w.shape[1], *sizes), x.dtype)
    for place in np.ndindex(*kernel):
        product = np.einsum("ngi...,gim->ngm...", grouped, weights[(..., *place)], optimize=True)
        axes = zip(place, dilations, spatial, strides, strict=True)
        target = [slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in axes]
        full[_spatial(target)] += product
    result = full.reshape(x.shape[0], -1, *sizes)
    result = _cropped(result, _pads(attributes, sizes, spatial, strides))
    if bias is not None:
        result = result + bias.reshape(-1, *(1,) * rank)
    return result.astype(x.dtype)


def _pads(
    attributes: Mapping[str, Any], sizes: list[int], spatial: tuple[int, ...], strides: list[int]
) -> list[tuple[int, int]]:
    """Elements cut from both ends of each axis; negative ones are added."""
    rank = len(sizes)
    mode = attributes.get("auto_pad", "NOTSET")
    wanted = attributes.get("output_shape")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    if wanted is None:
        pads = attributes.get("pads") or [0] * (2 * rank)
        if mode == "VALID":
            pads = [0] * (2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    result: list[tuple[int, int]] = []
    for size, target in zip(sizes, wanted[-rank:], strict=True):
        total = size - target
        low = total // 2 if mode == "SAME_UPPER" else total - total // 2
        result.append((low, total - low))
    return result


def _cropped(array: AnyArray, pads: list[tuple[int, int]]) -> AnyArray:
    kept = [
        slice(max(low, 0), size - max(high, 0))
        for (low, high), size in zip(pads, array.shape[2:], strict=True)
    ]
    added = [(0, 0), (0, 0), *((max(-low, 0), max(-high, 0)) for low, high in pads)]
    return np.pad(array[_spatial(kept)], added)


def _spatial(slices: list[slice]) -> Any:
    """Index of the last axes."""
    return (..., *slices)
