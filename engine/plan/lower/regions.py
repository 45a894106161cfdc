"""Lowering of RoiAlign and of the samples of DeformConv, on channels-last images."""

from __future__ import annotations

from typing import Any

from engine.codegen.kernel import KernelSpec
from engine.graph.ir import OURS, Node
from engine.kernels import deformed, regions
from engine.plan.lower.operands import checked
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, product


@lowers(f"{OURS}.RoiAlign")
def lower_roi_align(node: Node, low: Lowering) -> None:
    """Regions [R, 4] of images [N, H, W, C], one image each, as [R, rows, columns, C]."""
    checked(node)
    x, boxes, images = (low.read(value) for value in node.inputs[:3])
    if str(boxes.dtype) != "float32" or str(images.dtype) != "int64":
        raise NoKernel(f"regions of {boxes.dtype} in images of {images.dtype}")
    x = x if x.strides[-1] == ONE else low.contiguous(x)
    y = low.write(node.outputs[0])
    default = "half_pixel" if node.version >= 16 else "output_half_pixel"
    mode = str(node.attribute("coordinate_transformation_mode", default))
    ratio = int(node.attribute("sampling_ratio", 0))
    rows, columns = y.shape[1:3]
    words = {f"x_{name}": x.strides[axis] * x.itemsize for axis, name in enumerate(("n", "h", "w"))}
    low.call(
        KernelSpec.of(
            regions.ALIGN.name,
            mode=str(node.attribute("mode", "avg")),
            half_pixel=mode == "half_pixel",
        ),
        items=y.shape[0] * rows,
        cost=columns * (max(ratio, 2) ** 2 * (x.shape[-1] // 8 + 10)),
        writes="y",
        x=x,
        regions=low.contiguous(boxes),
        images=low.contiguous(images),
        y=y,
        count=x.shape[0],
        height=x.shape[1],
        width=x.shape[2],
        channels=x.shape[3],
        rows=rows,
        columns=columns,
        ratio=ratio,
        scale=float(node.attribute("spatial_scale", 1.0)),
        **words,
    )


@lowers(f"{OURS}.DeformedColumns")
def lower_deformed_columns(node: Node, low: Lowering) -> None:
    """Samples of images [N, H, W, C] at positions with offsets [N, 2 * taps, rows, columns]."""
    checked(node)
    x, offset = low.read(node.inputs[0]), low.read_dense(node.inputs[1])
    given = node.input(2)
    mask: dict[str, Any] = {} if given is None else {"mask": low.read_dense(given)}
    x = x if x.strides[-1] == ONE else low.contiguous(x)
    y = low.write(node.outputs[0])
    group, offsets = node.attribute("group"), node.attribute("offset_group")
    kernel = node.attribute("kernel_shape")
    rows, columns = offset.shape[2:]
    words = {f"x_{name}": x.strides[axis] * x.itemsize for axis, name in enumerate(("n", "h", "w"))}
    for axis, name in enumerate("hw"):
        words[f"taps_{name}"] = kernel[axis]
        words[f"stride_{name}"] = node.attribute("strides")[axis]
        words[f"pad_{name}"] = node.attribute("pads")[axis]
        words[f"dilation_{name}"] = node.attribute("dilations")[axis]
    taps = kernel[0] * kernel[1]
    low.call(
        KernelSpec.of(deformed.COLUMNS.name, masked=given is not None),
        items=x.shape[0] * rows,
        cost=columns * taps * (x.shape[3] // 8 + 15 * max(group, offsets)),
        writes="y",
        x=x,
        offset=offset,
        y=y,
        height=x.shape[1],
        width=x.shape[2],
        channels=x.shape[3],
        rows=rows,
        columns=columns,
        chunks=max(group, offsets),
        groups=group,
        offsets=offsets,
        group_stride=product(y.shape[1:]) * y.itemsize if group > 1 else 0,
        **mask,
        **words,
    )
