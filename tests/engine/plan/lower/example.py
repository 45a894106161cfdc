"""Models of one or a few nodes with open axes, and how their inputs are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Input:
    """A graph input: its sizes (``"n"`` and ``"w"`` are open) and how its values are drawn."""

    shape: tuple[int | str, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...], Sizes], Array]

    def array(self, sizes: Sizes, seed: int) -> Array:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)
        return np.asarray(self.draw(np.random.default_rng(seed), shape, sizes), order="C")


def normal(*shape: int | str, dtype: Any = np.float32, scale: float = 2) -> Input:
    return Input(shape, lambda rng, s, _: (rng.standard_normal(s) * scale).astype(dtype))


def positive(*shape: int | str) -> Input:
    return Input(shape, lambda rng, s, _: (rng.random(s) * 3 + 0.1).astype(np.float32))


def integers(*shape: int | str, high: int | str = 40, low: int = 0, dtype: Any = np.int64) -> Input:
    """Integers from `low` up to below `high`, or below the size that it names."""

    def draw(rng: np.random.Generator, s: tuple[int, ...], sizes: Sizes) -> Array:
        top = sizes[high] if isinstance(high, str) else high
        return rng.integers(low, max(top, low + 1), s).astype(dtype)

    return Input(shape, draw)


def given(array: Array) -> Input:
    """An input that has always the same values."""
    return Input(array.shape, lambda rng, s, _: array)


def booleans(*shape: int | str) -> Input:
    return Input(shape, lambda rng, s, _: rng.random(s) < 0.5)


@dataclass(frozen=True)
class Example:
    """Nodes over inputs and constants, and the outputs to look at.

    `rows` is false for operators whose output has no axis of rows, `zero` lists the open axes that
    may be empty, `least` the smallest size of those that may not be 1. `reference` says why
    onnxruntime is not asked, but the onnx package.
    """

    nodes: list[onnx.NodeProto]
    inputs: dict[str, Input]
    constants: dict[str, Array] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 21
    rows: bool = True
    zero: tuple[str, ...] = ("n", "w")
    least: Mapping[str, int] = field(default_factory=dict)
    reference: str = ""

    def model(self) -> bytes:
        infos = [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(found.array({"n": 1, "w": 1}, 0).dtype),
                list(found.shape),
            )
            for name, found in self.inputs.items()
        ]
        graph = helper.make_graph(
            self.nodes,
            "example",
            infos,
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()

    def feeds(self, sizes: Sizes, seed: int = 0) -> dict[str, Array]:
        return {
            name: found.array(sizes, seed + i)
            for i, (name, found) in enumerate(self.inputs.items())
        }

    def has_rows(self, name: str) -> bool:
        """Whether an input has one entry per row."""
        return self.inputs[name].shape[:1] == ("n",)


def one(op: str, inputs: dict[str, Input], *order: str, **options: Any) -> Example:
    """One node on inputs and constants; names in `order` where they are not the inputs' own."""
    own = {"constants", "outputs", "opset", "rows", "zero", "least", "reference"}
    attributes = {key: value for key, value in options.items() if key not in own}
    settings = {key: value for key, value in options.items() if key in own}
    names = list(order) or [*inputs, *settings.get("constants", {})]
    node = helper.make_node(op, names, list(settings.get("outputs", ("y",))), **attributes)
    return Example([node], inputs, **settings)


def weights(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


X: Final = {"x": normal("n", "w", 5)}
IMAGE: Final = {"x": normal("n", 5, "w", 7)}
PAIR: Final = {"a": normal("n", "w", 5), "b": normal("w", 1)}
WHOLE: Final = {"a": integers("n", "w", 5, low=1), "b": integers("w", 1, low=1, high=9)}
TRUTHS: Final = {"a": booleans("n", "w", 5), "b": booleans("w", 1)}
