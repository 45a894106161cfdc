"""Lowering of RoiAlign on channels-last images."""

from __future__ import annotations

from engine.codegen.kernel import KernelSpec
from engine.graph.ir import OURS, Node
from engine.kernels import regions
from engine.plan.lower.operands import checked
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE


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
