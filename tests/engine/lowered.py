"""Lowers single nodes and runs the calls on arrays, without planning memory or a program."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def lower_node(
    isa: str,
    node: Node,
    pieces: int = 1,
    bench: Bench | None = None,
) -> tuple[list[Array], int]:
    """Lower and run `node`, whose inputs come from `bench`; its outputs and the status."""
    assert bench is not None
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    status = bench.execute(pieces)
    return [bench.array(bench.low.tensors[id(value)]) for value in node.outputs], status
