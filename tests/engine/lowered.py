"""Lowers single nodes and runs the calls on arrays, without planning memory or a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from engine.codegen.target import select
from engine.graph.dims import Dim, symbol
from engine.graph.ir import Node, Value
from engine.plan.lowering import Lowering, lowering_of
from engine.plan.tensor import Buffer, Space, Tensor, row_major
from tests.engine.harness import run_kernel

Array = np.ndarray[Any, Any]
GARBAGE = 0xA5


class Bench:
    """A lowering whose inputs are arrays; every size is symbolic unless `static`."""

    def __init__(self, isa: str, static: bool = False) -> None:
        self.isa = isa
        self.static = static
        self.low = Lowering(select(isa))
        self.low.node = Node("Test", [], [])
        self.sizes: dict[str, int] = {}
        self.memory: dict[int, Array] = {}

    def dims(self, shape: tuple[int, ...], name: str) -> tuple[Dim, ...]:
        """Dims of a shape; axes of length 1 stay constants, as broadcasting needs."""
        dims: list[Dim] = []
        for axis, length in enumerate(shape):
            if self.static or length == 1:
                dims.append(Dim.of(length))
            else:
                self.sizes[f"{name}{axis}"] = length
                dims.append(symbol(f"{name}{axis}"))
        return tuple(dims)

    def input(self, array: Array, name: str) -> Tensor:
        dims = self.dims(array.shape, name)
        size = Dim.of(array.nbytes)
        buffer = Buffer(Space.INPUT, len(self.memory), size, name)
        self.memory[id(buffer)] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return Tensor(array.dtype, dims, row_major(dims), buffer)

    def value(self, array: Array, name: str) -> Value:
        """Graph value fed with `array`."""
        tensor = self.input(array, name)
        value = Value(name, tensor.dtype, tensor.shape)
        self.low.tensors[id(value)] = tensor
        return value

    def bytes_of(self, buffer: Buffer) -> Array:
        found = self.memory.get(id(buffer))
        if found is None:
            if buffer.data is not None:
                found = np.ascontiguousarray(buffer.data).reshape(-1).view(np.uint8)
            else:
                found = np.full(buffer.size.evaluate(self.sizes), GARBAGE, np.uint8)
            self.memory[id(buffer)] = found
        return found

    def execute(self, pieces: int = 1) -> int:
        """Run every call; returns the first bad status."""
        for call in self.low.calls:
            arguments: dict[str, Any] = {}
            for name, value in call.arguments.items():
                if isinstance(value, Tensor):
                    offset = value.offset.evaluate(self.sizes) * value.itemsize
                    arguments[name] = (self.bytes_of(value.buffer), offset)
                elif isinstance(value, Dim):
                    arguments[name] = value.evaluate(self.sizes)
                else:
                    arguments[name] = value
            assert call.cost.evaluate(self.sizes) >= 0
            items = call.items.evaluate(self.sizes)
            scratch = call.scratch.evaluate(self.sizes)
            status = run_kernel(
                call.spec, self.isa, items, scratch=scratch, pieces=pieces, **arguments
            )
            if status:
                return status
        return 0

    def array(self, tensor: Tensor) -> Array:
        """Content of a tensor."""
        memory = self.bytes_of(tensor.buffer)
        shape = tuple(d.evaluate(self.sizes) for d in tensor.shape)
        strides = tuple(s.evaluate(self.sizes) * tensor.itemsize for s in tensor.strides)
        start = tensor.offset.evaluate(self.sizes) * tensor.itemsize
        if 0 in shape:
            return np.zeros(shape, tensor.dtype)
        return np.ndarray(shape, tensor.dtype, memory.data, start, strides).copy()


def reference(
    op: str, arrays: list[Array | None], attributes: dict[str, Any], opset: int, outputs: int
) -> list[Array]:
    """Outputs of one standard operator by the onnx package's reference implementation."""
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    results = [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    ]
    returned = [onnx.helper.make_empty_tensor_value_info(name) for name in results]
    graph = onnx.helper.make_graph([node], "node", infos, returned)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    with np.errstate(all="ignore"):
        found: Any = ReferenceEvaluator(model).run(None, feeds)
    return [np.asarray(array) for array in found]


def lower_node(
    isa: str,
    op: str,
    arrays: list[Array | None],
    expected: list[Array],
    *,
    known: Sequence[int] = (),
    opset: int = 21,
    pieces: int = 1,
    **attributes: Any,
) -> tuple[list[Array], int]:
    """Lower and run one node; inputs listed in `known` are constants.

    The outputs' shapes and types are those of `expected`. Returns the outputs and the status.
    """
    bench = Bench(isa, static=True)
    inputs: list[Value | None] = []
    for i, array in enumerate(arrays):
        if array is None:
            inputs.append(None)
        elif i in known:
            shape = tuple(Dim.of(n) for n in array.shape)
            inputs.append(Value(f"x{i}", array.dtype, shape, data=array))
        else:
            inputs.append(bench.value(array, f"x{i}"))
    outputs = [
        Value(f"y{i}", array.dtype, tuple(Dim.of(n) for n in array.shape))
        for i, array in enumerate(expected)
    ]
    node = Node(op, inputs, outputs, attributes, version=opset)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    status = bench.execute(pieces)
    return [bench.array(bench.low.tensors[id(value)]) for value in outputs], status


def check_node(
    isa: str,
    op: str,
    arrays: list[Array | None],
    *,
    known: Sequence[int] = (),
    opset: int = 21,
    outputs: int = 1,
    pieces: int = 1,
    tolerance: float = 0,
    **attributes: Any,
) -> None:
    """The lowered node gives what the reference implementation gives."""
    expected = reference(op, arrays, attributes, opset, outputs)
    results, status = lower_node(
        isa, op, arrays, expected, known=known, opset=opset, pieces=pieces, **attributes
    )
    assert status == 0
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        assert result.dtype == wanted.dtype
        if tolerance:
            np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(result, wanted)
