"""One kernel per fused element-wise expression, for any strides and sizes.

The index space is a tile of rows and columns inside any number of outer axes; the lowering merges
axes so that columns are as long as the tensors allow. Columns are vectorised. Along them an input
is contiguous (``c``), one scalar per row (``s``), or of a stride known at run time only (``g``:
contiguous and broadcast are recognised when running, anything else is gathered). A work item is a
tile of about `TILE` elements: part of a long row, or many short rows.

An element is stored after all inputs at its position are read, so an output may take the place of
an input with the same strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import PTR, TYPES, KernelBuilder, Val
from engine.codegen.expression import Expr, emit_all, lanes_of
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import axis_names, decode

TILE: Final = 4096
"""Elements of a work item: enough to hide its fixed cost, few enough to share among threads."""

OUTER_RANKS: Final = (0, 1, 3, 7, 29)
"""Numbers of outer axes that kernels are generated for."""


def outer_rank(axes: int) -> int:
    """Outer axes of the kernel that serves `axes` of them."""
    return next(rank for rank in OUTER_RANKS if rank >= axes)


@dataclass(frozen=True)
class _Operand:
    """One tensor of the kernel: ``y`` for outputs, ``x`` for inputs, by number."""

    name: str
    dtype: str
    mode: str

    @property
    def itemsize(self) -> int:
        return element_bytes(self.dtype)


def _expressions(options: Options) -> list[Expr]:
    return [Expr.from_json(content) for content in options["expressions"]]


def _operands(options: Options) -> tuple[list[_Operand], list[_Operand]]:
    """Outputs and inputs."""
    expressions = _expressions(options)
    outputs = [_Operand(f"y{i}", expr.dtype, "c") for i, expr in enumerate(expressions)]
    inputs = [
        _Operand(f"x{i}", dtype, mode)
        for i, (dtype, mode) in enumerate(zip(options["dtypes"], options["modes"], strict=True))
    ]
    return outputs, inputs


def _layout(options: Options) -> Layout:
    outputs, inputs = _operands(options)
    rank = options["outer"]
    ints = ["rows columns tile_rows tile_columns row_tiles column_tiles", axis_names("d", rank)]
    for operand in outputs + inputs:
        ints += [axis_names(f"{operand.name}_", rank), f"{operand.name}_row"]
        if operand.mode == "g":
            ints.append(f"{operand.name}_column")
    return Layout.of(" ".join(operand.name for operand in outputs + inputs), " ".join(ints))


def lanes_for(target: Target, expressions: Sequence[Expr]) -> int:
    """Lanes of the kernel's vectors: those of the widest data type that takes part."""
    used = {node.dtype for expr in expressions for node in expr.nodes()}
    return target.lanes(max(map(element_bytes, used)))


class _Generator:
    """Emits the kernel of one set of options."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        self.k = KernelBuilder(symbol, target, _layout(options))
        self.expressions = _expressions(options)
        self.outputs, self.inputs = _operands(options)
        self.rank = options["outer"]
        self.lanes = lanes_for(target, self.expressions)
        operands = self.outputs + self.inputs
        # Masked access is one instruction for 4 and 8 bytes from 32-byte vectors on, for all sizes
        # in 64-byte vectors; elsewhere it would become a chain of branches.
        narrow = any(operand.itemsize < 4 for operand in operands)
        self.masked = target.vector_bytes >= (64 if narrow else 32)
        self.masked &= all(operand.mode != "g" for operand in operands)
        self.base = {operand.name: self.k.tensor(operand.name) for operand in operands}
        self.row_stride = {operand.name: self.k.int(f"{operand.name}_row") for operand in operands}
        self.column_stride = {
            operand.name: self.k.int(f"{operand.name}_column")
            if operand.mode == "g"
            else self.k.const(operand.itemsize if operand.mode == "c" else 0)
            for operand in operands
        }

    def build(self) -> str:
        """LLVM IR text of the module."""
        k = self.k
        rows, columns, tile_rows, tile_columns = k.ints("rows columns tile_rows tile_columns")
        tiles = k.ints("row_tiles column_tiles")
        dims = [*k.ints(axis_names("d", self.rank)), *tiles]
        operands = self.outputs + self.inputs
        strides = {
            operand.name: [
                *k.ints(axis_names(f"{operand.name}_", self.rank)),
                self.row_stride[operand.name] * tile_rows,
                self.column_stride[operand.name] * tile_columns,
            ]
            for operand in operands
        }
        with k.loop(k.begin, k.end) as item:
            index = decode(k, item, dims)
            pointers = {}
            for name, steps in strides.items():
                shift = k.const(0)
                for position, step in zip(index, steps, strict=True):
                    shift = shift + position * step
                pointers[name] = k.variable(self.base[name] + shift, PTR)
            height = k.minimum(rows - index[-2] * tile_rows, tile_rows)
            width = k.minimum(columns - index[-1] * tile_columns, tile_columns)
            with k.loop(0, height):
                self._row({name: pointer.get() for name, pointer in pointers.items()}, width)
                for name, pointer in pointers.items():
                    pointer.add(self.row_stride[name])
        k.ret()
        return str(k.module)

    def _row(self, pointers: dict[str, Val], width: Val) -> None:
        k, lanes = self.k, self.lanes
        scalars = {
            operand.name: k.load(pointers[operand.name], TYPES[operand.dtype])
            for operand in self.inputs
            if operand.mode == "s"
        }
        whole = width - (width & (lanes - 1))
        with k.loop(0, whole, lanes) as column:
            values = [
                scalars[o.name] if o.mode == "s" else self._vector(o, pointers[o.name], column)
                for o in self.inputs
            ]
            for operand, value in zip(self.outputs, self._results(values, lanes), strict=True):
                k.store(value, pointers[operand.name] + column * operand.itemsize)
        if self.masked:
            with k.when(whole < width):
                self._masked_tail(pointers, scalars, whole, width)
        else:
            with k.loop(whole, width) as column:
                values = [
                    scalars[o.name]
                    if o.mode == "s"
                    else k.load(
                        pointers[o.name] + column * self.column_stride[o.name], TYPES[o.dtype]
                    )
                    for o in self.inputs
                ]
                for operand, value in zip(self.outputs, self._results(values, 0), strict=True):
                    k.store(value, pointers[operand.name] + column * operand.itemsize)

    def _masked_tail(
        self, pointers: dict[str, Val], scalars: dict[str, Val], whole: Val, width: Val
    ) -> None:
        k = self.k
        mask = k.mask(width - whole, self.lanes)
        values = [
            scalars[o.name]
            if o.mode == "s"
            else k.masked_load(
                pointers[o.name] + whole * o.itemsize, mask, k.vector(TYPES[o.dtype], self.lanes)
            )
            for o in self.inputs
        ]
        for operand, value in zip(self.outputs, self._results(values, self.lanes), strict=True):
            k.masked_store(value, pointers[operand.name] + whole * operand.itemsize, mask)

    def _results(self, values: list[Val], lanes: int) -> list[Val]:
        """Values of the expressions, as vectors of `lanes` (0: scalars)."""
        results = emit_all(self.k, self.expressions, values)
        return [
            self.k.splat(value, lanes) if lanes and not lanes_of(value) else value
            for value in results
        ]

    def _vector(self, operand: _Operand, pointer: Val, column: Val) -> Val:
        k = self.k
        scalar = TYPES[operand.dtype]
        kind = k.vector(scalar, self.lanes)
        if operand.mode == "c":
            return k.load(pointer + column * operand.itemsize, kind)
        stride = self.column_stride[operand.name]
        start = pointer + column * stride
        result = k.variable(k.const(0, kind))
        with k.branch(stride.equals(operand.itemsize)) as (contiguous, other):
            with contiguous:
                result.set(k.load(start, kind))
            with other, k.branch(stride.equals(0)) as (broadcast, strided):
                with broadcast:
                    result.set(k.splat(k.load(start, scalar), self.lanes))
                with strided:
                    result.set(self._gather(start, stride, scalar, kind))
        return result.get()

    def _gather(self, start: Val, stride: Val, scalar: Any, kind: Any) -> Val:
        k = self.k
        vector = k.const(0, kind).v
        at = start
        for lane in range(self.lanes):
            index = k.const(lane, TYPES["int32"]).v
            vector = k.b.insert_element(vector, k.load(at, scalar).v, index)
            at = at + stride
        return Val(k, vector)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Generator(symbol, target, options).build()


ELEMENTWISE: Final = register(
    Family("elementwise", "fused element-wise expressions over strided tensors", _layout, _build)
)
