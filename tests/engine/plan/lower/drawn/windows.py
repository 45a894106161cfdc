"""Convolution, pooling, resizing, sampling: windows over one to three spatial axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from tests.engine.plan.lower.drawn.support import Draw, Shape, draws, flag, number, pick, tensor
from tests.engine.plan.lower.example import Array, Example, Input, one, weights

OPEN = {"w": 12}
"""Least size of the open spatial axis: longer than any window and its dilation."""


@dataclass(frozen=True)
class Window:
    """Spatial axes, one of them open, and attributes of a window over them."""

    axes: Shape
    kernel: list[int]
    attributes: dict[str, Any]


def window(
    draw: Draw, rank: int, kernels: tuple[int, ...] = (1, 2, 3), padded: bool = True
) -> Window:
    axes: list[int | str] = [pick(draw, 9, 10, 13) for _ in range(rank)]
    axes[number(draw, 0, rank - 1)] = "w"
    kernel = [number(draw, 1, 3) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    strides = attributes["strides"] = [number(draw, 1, 3) for _ in range(rank)]
    if flag(draw):
        attributes["dilations"] = [number(draw, 1, 2) for _ in range(rank)]
    chosen = pick(draw, "none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID")
    if chosen == "pads":
        attributes["pads"] = [number(draw, 0, max(k - 1, 0)) for k in kernel * 2]
    elif chosen != "none":
        attributes["auto_pad"] = chosen
        if chosen.startswith("SAME"):
            # onnxruntime takes no dilation there, and no pixels between windows.
            attributes.pop("dilations", None)
            attributes["strides"] = [min(pair) for pair in zip(strides, kernel, strict=True)]
    return Window(tuple(axes), kernel, attributes)


def pooled(draw: Draw, op: str) -> tuple[Window, dict[str, Any]]:
    found = window(draw, number(draw, 1, 3))
    attributes = dict(found.attributes)
    if op == "AveragePool":
        attributes["count_include_pad"] = number(draw, 0, 1)
    if op == "LpPool":
        attributes["p"] = number(draw, 1, 2)
    return found, attributes


@draws("MaxPool", "AveragePool", "LpPool")
def pools(draw: Draw, op: str) -> Example:
    found, attributes = pooled(draw, op)
    x = {"x": tensor("float32", "n", pick(draw, 1, 3, 16, 17), *found.axes)}
    return one(op, x, opset=21, zero=("n",), least=OPEN, **attributes)


@draws("packhorse.MaxPool", "packhorse.AveragePool", "packhorse.LpPool")
def pools_of_networks(draw: Draw, key: str) -> Example:
    """After a convolution, so that the images lie channels-last."""
    op = key.removeprefix("packhorse.")
    found, attributes = pooled(draw, op)
    return network(
        draw, len(found.axes), found.axes, helper.make_node(op, ["c"], ["y"], **attributes)
    )


@draws("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def whole_images(draw: Draw, op: str) -> Example:
    rank = number(draw, 1, 3)
    spatial: list[int | str] = [pick(draw, 1, 2, 7) for _ in range(rank)]
    spatial[number(draw, 0, rank - 1)] = "w"
    order = {"p": number(draw, 1, 2)} if op == "GlobalLpPool" else {}
    x = {"x": tensor("float32", "n", pick(draw, 1, 3, 17), *spatial)}
    return one(op, x, zero=("n",), **order)


@draws("packhorse.GlobalAveragePool", "packhorse.GlobalMaxPool")
def whole_images_of_networks(draw: Draw, key: str) -> Example:
    rank = number(draw, 1, 2)
    op = helper.make_node(key.removeprefix("packhorse."), ["c"], ["y"])
    return network(draw, rank, ("w", 7)[:rank], op)


def network(draw: Draw, rank: int, axes: Shape, *nodes: Any) -> Example:
    """A convolution that keeps the size, from x to c, and `nodes` from c to y."""
    channels, outputs = number(draw, 1, 5), pick(draw, 1, 4, 16, 17)
    convolution = helper.make_node("Conv", ["x", "k"], ["c"], pads=[1] * (2 * rank))
    x = {"x": tensor("float32", "n", channels, *axes)}
    constants = {"k": weights(outputs, channels, *[3] * rank)}
    return Example([convolution, *nodes], x, constants, zero=("n",), least=OPEN)


@draws("packhorse.Conv")
def convolutions(draw: Draw, op: str) -> Example:
    """Plain, grouped and depthwise ones; perhaps a bias and what may follow in registers."""
    rank = number(draw, 1, 3)
    found = window(draw, rank)
    kind = pick(draw, "plain", "grouped", "depthwise")
    group = 1 if kind == "plain" else pick(draw, 2, 3, 16)
    inner = 1 if kind == "depthwise" else pick(draw, 1, 3, 5)
    outer = 1 if kind == "depthwise" else pick(draw, 1, 2, 9)
    constants = {"k": weights(group * outer, inner, *found.kernel)}
    names = ["x", "k"]
    if flag(draw):
        constants["b"] = weights(group * outer, seed=9)
        names.append("b")
    after = pick(draw, "", "Relu", "Sigmoid", "HardSwish")
    attributes = found.attributes | {"group": group}
    convolution = helper.make_node("Conv", names, ["c" if after else "y"], **attributes)
    rest = [helper.make_node(after, ["c"], ["y"])] if after else []
    x = {"x": tensor("float32", "n", group * inner, *found.axes)}
    return Example([convolution, *rest], x, constants, zero=("n",), least=OPEN)


@draws("packhorse.Heads")
def heads(draw: Draw, op: str) -> Example:
    """One or two narrow 1x1 convolutions of what another computed; perhaps a softmax of one."""
    channels, kernel = pick(draw, 5, 16, 17, 40), pick(draw, 1, 3)
    constants = {"k": weights(channels, 5, kernel, kernel)}
    constants["h"] = weights(pick(draw, 1, 2), channels, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Conv", ["c", "h"], ["p" if flag(draw) else "y"]),
    ]
    if nodes[-1].output[0] == "p":
        nodes.append(helper.make_node("Softmax", ["p"], ["y"], axis=1))
    if flag(draw):
        constants["g"] = weights(pick(draw, 3, 4, 9), channels, 1, 1)
        nodes.append(helper.make_node("Conv", ["c", "g"], ["z"]))
    x = {"x": tensor("float32", "n", 5, pick(draw, 4, 9), "w")}
    outputs = ("y", "z") if "g" in constants else ("y",)
    return Example(nodes, x, constants, outputs, zero=("n",), least=OPEN)


@draws("packhorse.PlaneConv")
def convolutions_of_images(draw: Draw, op: str) -> Example:
    """First layers: few channels; perhaps a pooling that joins."""
    channels, kernel = pick(draw, 1, 3), number(draw, 2, 3)
    pads = [number(draw, 0, kernel - 1) for _ in range(4)]
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], pads=pads),
        helper.make_node("Relu", ["c"], ["r"]),
    ]
    window = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": number(draw, 0, 1)}
    nodes.append(helper.make_node("MaxPool", ["r"], ["y"], **window))
    outputs = pick(draw, 1, 4, 6)
    constants = {"k": weights(outputs, channels, kernel, kernel), "b": weights(outputs, seed=9)}
    x = {"x": tensor("float32", "n", channels, pick(draw, 8, 9, 13), "w")}
    return Example(nodes, x, constants, zero=("n",), least=OPEN)


@draws("packhorse.ConvTranspose")
def transposed(draw: Draw, op: str) -> Example:
    rank = number(draw, 1, 3)
    kernel = [number(draw, 1, 4) for _ in range(rank)]
    strides = [number(draw, 1, 3) for _ in range(rank)]
    attributes: dict[str, Any] = {"strides": strides}
    if flag(draw):
        attributes["pads"] = [number(draw, 0, k - 1) for k in kernel * 2]
    if flag(draw):
        attributes["output_padding"] = [number(draw, 0, s - 1) for s in strides]
    channels, outputs = pick(draw, 1, 3, 16), pick(draw, 1, 4, 17)
    axes: Shape = ("w", 5, 4)[:rank]
    x = {"x": tensor("float32", "n", channels, *axes)}
    constants = {"k": weights(channels, outputs, *kernel)}
    if flag(draw):
        constants["b"] = weights(outputs, seed=9)
    return one("ConvTranspose", x, constants=constants, zero=("n",), least={"w": 4}, **attributes)


COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resizing(draw: Draw) -> dict[str, Any]:
    """Attributes of a Resize that onnxruntime computes as the standard says."""
    mode = pick(draw, "nearest", "linear", "cubic")
    attributes: dict[str, Any] = {"mode": mode}
    attributes["coordinate_transformation_mode"] = pick(draw, *COORDINATES)
    if mode == "nearest":
        attributes["nearest_mode"] = pick(draw, *NEAREST)
    if mode == "cubic":
        attributes["cubic_coeff_a"] = pick(draw, -0.75, -0.5)
        attributes["exclude_outside"] = number(draw, 0, 1)
    return attributes


@draws("Resize")
def resized(draw: Draw, op: str) -> Example:
    axes: Shape = ("n", pick(draw, 1, 3), pick(draw, 4, 7), "w")
    scales = np.array([1, 1, *(pick(draw, 0.5, 1, 1.5, 2, 3) for _ in range(2))], np.float32)
    x, constants = {"x": tensor("float32", *axes)}, {"scales": scales}
    found: dict[str, Any] = {"constants": constants, "zero": ("n",), "least": {"w": 3}}
    return one(op, x, "x", "", "scales", **resizing(draw), **found)


@draws("packhorse.Resize")
def resized_by_inputs(draw: Draw, op: str) -> Example:
    scales = np.array([1, 1, *(pick(draw, 0.5, 1.5, 2) for _ in range(2))], np.float32)
    source = Input((4,), lambda rng, lengths, sizes: scales)
    inputs = {"x": tensor("float32", "n", 3, 5, "w"), "scales": source}
    found: dict[str, Any] = {"zero": ("n",), "least": {"w": 3}}
    attributes = resizing(draw)
    if attributes["coordinate_transformation_mode"] == "align_corners":
        # onnxruntime lets corners meet at the whole number below size * scale.
        found["reference"] = "corners meet at size * scale"
        attributes["nearest_mode"] = "floor"
        attributes["exclude_outside"] = 0
    return one("Resize", inputs, "x", "", "scales", **attributes, **found)


@draws("Upsample")
def upsampled(draw: Draw, op: str) -> Example:
    scales = np.array([1, 1, pick(draw, 1, 2, 3), pick(draw, 1, 2, 4)], np.float32)
    x = {"x": tensor("float32", "n", pick(draw, 1, 3), 4, "w")}
    mode = pick(draw, "nearest", "linear")
    return one(op, x, constants={"scales": scales}, mode=mode, opset=9, zero=("n",))


@draws("GridSample")
def sampled(draw: Draw, op: str) -> Example:
    rank = number(draw, 1, 2) + 1
    dtype = pick(draw, "float32", "float64") if rank == 2 else "float32"
    mode = (
        pick(draw, "linear", "nearest", "cubic") if rank == 2 else pick(draw, "linear", "nearest")
    )
    spatial: list[int | str] = [pick(draw, 2, 5, 6) for _ in range(rank)]
    spatial[-1] = "w"
    out = [pick(draw, 1, 3, 4) for _ in range(rank)]
    x = {"x": tensor(dtype, "n", pick(draw, 1, 3), *spatial)}
    x["grid"] = tensor(dtype, "n", *out, rank, scale=0.7)
    attributes = {
        "mode": mode,
        "padding_mode": pick(draw, "zeros", "border", "reflection"),
        "align_corners": number(draw, 0, 1),
    }
    return one(op, x, opset=20, zero=("n",), least={"w": 2}, **attributes)


def array_input(array: Array) -> Input:
    return Input(array.shape, lambda rng, lengths, sizes: array)


@draws("packhorse.Pad")
def borders_of_inputs(draw: Draw, op: str) -> Example:
    """The padding value, and perhaps the pads, are inputs."""
    rank = number(draw, 1, 3)
    axes: Shape = ("n", "w", pick(draw, 1, 5, 8))[:rank]
    dtype = pick(draw, "float32", "float64", "int32", "int64")
    pads = np.array([number(draw, 0, 4) for _ in range(2 * rank)], np.int64)
    rows = not pads[0] and not pads[rank]
    inputs = {"x": tensor(dtype, *axes)}
    if flag(draw):
        inputs |= {"pads": array_input(pads), "value": array_input(np.array(2, dtype))}
        return one("Pad", inputs, rows=rows)
    inputs["value"] = array_input(np.array(2, dtype))
    return one("Pad", inputs, "x", "pads", "value", constants={"pads": pads}, rows=rows)


@draws("packhorse.Window")
def slices_of_inputs(draw: Draw, op: str) -> Example:
    """Starts and ends are inputs."""
    axes: Shape = ("n", "w", pick(draw, 1, 5, 17))
    count = number(draw, 1, 2)
    starts = np.array([pick(draw, 0, 1, 3, -1, -2, 40) for _ in range(count)], np.int64)
    ends = np.array([pick(draw, 0, 2, 9, -1, 2**40, -(2**40)) for _ in range(count)], np.int64)
    chosen = np.array([1, 2][:count], np.int64)
    steps = np.array([pick(draw, 1, 2, -1, -2) for _ in range(count)], np.int64)
    inputs = {"x": tensor(pick(draw, "float32", "int64", "uint8"), *axes)}
    inputs |= {"starts": array_input(starts), "ends": array_input(ends)}
    return one("Slice", inputs, constants={"axes": chosen, "steps": steps})


@draws("If")
def branches(draw: Draw, op: str) -> Example:
    """A branch by a size, each a function of the rows."""
    bound, axes = number(draw, 0, 9), ("n", "w", pick(draw, 1, 5))
    names = [pick(draw, "Tanh", "Neg", "Abs", "Relu") for _ in range(2)]
    graphs = {
        f"{which}_branch": helper.make_graph(
            [helper.make_node(name, ["x"], [which])],
            which,
            [],
            [helper.make_empty_tensor_value_info(which)],
        )
        for which, name in zip(("then", "else"), names, strict=True)
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1, end=2),
        helper.make_node("Greater", ["s", "bound"], ["wide"]),
        helper.make_node("If", ["wide"], ["y"], **graphs),
    ]
    return Example(nodes, {"x": tensor("float32", *axes)}, {"bound": np.array([bound])})
