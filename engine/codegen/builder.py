"""The kernel language: LLVM IR written as Python expressions.

A `KernelBuilder` opens one kernel function; generators compute with `Val` operands, which overload
Python's operators, and open loops and branches as ``with`` blocks. Mutable state lives in
`Variable` (a stack slot that LLVM promotes to a register). Pointers move by byte offsets through
``getelementptr`` only: LLVM 22 may miscompile integer-to-pointer arithmetic on data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ir

from engine.codegen.abi import WORD, Context, Layout
from engine.codegen.target import Target
from engine.codegen.values import (
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    PTR,
    SIGNATURE,
    TYPES,
    Operand,
    Val,
    Variable,
    element,
    is_float,
)

__all__ = [
    "F32",
    "F64",
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "PTR",
    "SIGNATURE",
    "TYPES",
    "KernelBuilder",
    "Operand",
    "Val",
    "Variable",
    "element",
    "is_float",
]

Int = int
Float = float
"""The types, under names that `KernelBuilder.int` and `.float` do not hide."""


class KernelBuilder:
    """Builds one kernel function `name` for `target` with parameters laid out by `layout`."""

    def __init__(self, name: str, target: Target, layout: Layout) -> None:
        self.target = target
        self.layout = layout
        self.module = ir.Module(name=name)
        self.module.triple = target.triple
        self.function = ir.Function(self.module, SIGNATURE, name)
        self.function.attributes.add("nounwind")
        for argument in self.function.args[:2]:
            argument.add_attribute("noalias")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.words, self.context, self.begin, self.end = (Val(self, a) for a in self.function.args)

    def int(self, name: str) -> Val:
        """Integer parameter `name` (i64)."""
        return self._word(name, "int", I64)

    def ints(self, names: str) -> list[Val]:
        """Integer parameters by names separated by spaces."""
        return [self.int(name) for name in names.split()]

    def float(self, name: str, kind: Any = F32) -> Val:
        """Float parameter `name`, kept as float64 in its word, converted to `kind`."""
        value = self._word(name, "float", F64)
        return value if kind == F64 else Val(self, self.b.fptrunc(value.v, kind))

    def tensor(self, name: str) -> Val:
        """Pointer to the first element of tensor parameter `name`."""
        field = self.layout.fields[name]
        assert field.kind == "tensor", name
        base = self.load(self.offset(self.words, field.word * WORD), I64)
        shift = self.load(self.offset(self.words, (field.word + 1) * WORD), I64)
        bases = self.load(self.offset(self.context, Context.BASES), PTR)
        return self.offset(self.load(self.offset(bases, base * 8), PTR), shift)

    def scratch(self) -> Val:
        """This thread's scratch memory, aligned to 64 bytes."""
        return self.load(self.offset(self.context, Context.SCRATCH), PTR)

    def _word(self, name: str, kind: str, llvm_type: Any) -> Val:
        field = self.layout.fields[name]
        assert field.kind == kind, f"{name} is of kind {field.kind}"
        return self.load(self.offset(self.words, field.word * WORD), llvm_type)

    def const(self, value: Int | Float, kind: Any = I64) -> Val:
        """Constant of a scalar or (splatted) vector type."""
        return Val(self, self._constant(value, kind))

    def cast_operand(self, value: Operand, kind: Any) -> Any:
        """LLVM value of an operand: constants take `kind`, scalars splat to a vector `kind`."""
        if not isinstance(value, Val):
            return self._constant(value, kind)
        if isinstance(kind, ir.VectorType) and not isinstance(value.type, ir.VectorType):
            return self.splat(value, kind.count).v
        return value.v

    def _constant(self, value: Int | Float, kind: Any) -> Any:
        if isinstance(kind, ir.VectorType):
            return ir.Constant(kind, [self._constant(value, kind.element)] * kind.count)
        if is_float(kind):
            return ir.Constant(kind, float(value))
        return ir.Constant(kind, int(value))

    def vector(self, kind: Any, lanes: Int) -> Any:
        """Vector type of `lanes` elements."""
        return ir.VectorType(kind, lanes)

    def splat(self, value: Val, lanes: Int) -> Val:
        """Vector whose lanes all hold the scalar `value`."""
        kind = ir.VectorType(value.type, lanes)
        seed = self.b.insert_element(ir.Constant(kind, ir.Undefined), value.v, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, lanes), [I32(0)] * lanes)
        return Val(self, self.b.shuffle_vector(seed, ir.Constant(kind, ir.Undefined), zeros))

    def iota(self, kind: Any) -> Val:
        """0, 1, 2, ... in the lanes of a vector type."""
        return Val(self, ir.Constant(kind, [kind.element(lane) for lane in range(kind.count)]))

    def shuffle(self, a: Val, b: Val, lanes: Sequence[Int]) -> Val:
        """Lanes picked from `a` followed by `b`."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), [I32(lane) for lane in lanes])
        return Val(self, self.b.shuffle_vector(a.v, b.v, mask))

    def convert(self, value: Val, kind: Any, signed: bool = True) -> Val:
        """Numeric conversion between integers and floats, scalar or vector (C semantics)."""
        source, target = element(value.type), element(kind)
        if source == target:
            return value
        b = self.b
        if is_float(source) and is_float(target):
            op = b.fpext if target == F64 else b.fptrunc
        elif is_float(source):
            op = b.fptosi if signed else b.fptoui
        elif is_float(target):
            op = b.sitofp if signed else b.uitofp
        elif source.width > target.width:
            op = b.trunc
        else:
            op = b.sext if signed else b.zext
        return Val(self, op(value.v, kind))

    def bitcast(self, value: Val, kind: Any) -> Val:
        """Same bits under another type."""
        return Val(self, self.b.bitcast(value.v, kind))

    def offset(self, pointer: Val, byte_offset: Operand) -> Val:
        """Pointer moved by a number of bytes."""
        shift = self.cast_operand(byte_offset, I64)
        return Val(self, self.b.gep(pointer.v, [shift], source_etype=I8))

    def stack(self, kind: Any) -> Val:
        """Pointer to a stack slot of a type, alive until the function returns."""
        with self.b.goto_entry_block():
            slot = self.b.alloca(kind)
        # llvmlite types the slot by its content; pointers are opaque everywhere else.
        slot.type = PTR
        return Val(self, slot)

    def load(self, pointer: Val, kind: Any, align: Int | None = None) -> Val:
        """Load of a scalar or vector; `align` in bytes, by default that of the element."""
        return Val(self, self.b.load(pointer.v, typ=kind, align=align or self._align(kind)))

    def store(self, value: Val, pointer: Val, align: Int | None = None) -> None:
        """Store of a scalar or vector; `align` as for `load`."""
        self.b.store(value.v, pointer.v, align=align or self._align(value.type))

    def masked_load(self, pointer: Val, mask: Val, kind: Any) -> Val:
        """Load of the lanes that `mask` selects; other lanes are zero and not touched."""
        name = f"llvm.masked.load.{_mangle(kind)}.p0"
        zero = ir.Constant(kind, None)
        return self.intrinsic(name, kind, [pointer, self.const(self._align(kind), I32), mask, zero])

    def masked_store(self, value: Val, pointer: Val, mask: Val) -> None:
        """Store of the lanes that `mask` selects."""
        name = f"llvm.masked.store.{_mangle(value.type)}.p0"
        align = self.const(self._align(value.type), I32)
        self.intrinsic(name, ir.VoidType(), [value, pointer, align, mask])

    def gather(self, base: Val, index: Val, kind: Any) -> Val:
        """Elements of `kind` at the element offsets `index` (integers, signed) from `base`."""
        pointers = self.b.gep(base.v, [index.v], source_etype=kind.element)
        # llvmlite types the result by its base; with a vector of indices it is a vector.
        pointers.type = ir.VectorType(PTR, kind.count)
        align = self.const(self._align(kind), I32)
        every = ir.Constant(ir.VectorType(I1, kind.count), [I1(1)] * kind.count)
        name = f"llvm.masked.gather.{_mangle(kind)}.v{kind.count}p0"
        none = ir.Constant(kind, ir.Undefined)
        return self.intrinsic(name, kind, [Val(self, pointers), align, every, none])

    def prefetch(self, pointer: Val, level: Int) -> None:
        """Ask for the cache line at `pointer` in the cache of `level` 1 to 3; never faults."""
        hints = [self.const(value, I32) for value in (0, 4 - level, 1)]
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, *hints])

    def mask(self, count: Val, lanes: Int) -> Val:
        """Mask of the first `count` (i64) of `lanes` lanes."""
        return self.iota(ir.VectorType(I32, lanes)) < self.convert(count, I32)

    @staticmethod
    def _align(kind: Any) -> Int:
        scalar = element(kind)
        if scalar in (PTR, F64):
            return 8
        return 4 if scalar == F32 else max(1, scalar.width // 8)

    def intrinsic(self, name: str, result: Any, arguments: Sequence[Any]) -> Val:
        """Call of an LLVM intrinsic under its full mangled name."""
        values = [a.v if isinstance(a, Val) else a for a in arguments]
        function = self.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [v.type for v in values])
            function = ir.Function(self.module, kind, name)
        return Val(self, self.b.call(function, values))

    def assembly(
        self, text: str, constraints: str, results: Sequence[Any], arguments: Sequence[Val]
    ) -> list[Val]:
        """Inline assembly with side effects; `results` are the types of its outputs, in order."""
        kind = ir.FunctionType(ir.LiteralStructType(results), [a.type for a in arguments])
        code = ir.InlineAsm(kind, text, constraints, side_effect=True)
        pack = self.b.call(code, [a.v for a in arguments])
        return [Val(self, self.b.extract_value(pack, i)) for i in range(len(results))]

    def unary(self, name: str, value: Val) -> Val:
        """Intrinsic ``llvm.<name>`` of one operand of any float or integer type."""
        return self.intrinsic(f"llvm.{name}.{_mangle(value.type)}", value.type, [value])

    def binary(self, name: str, a: Val, b: Operand) -> Val:
        """Intrinsic ``llvm.<name>`` of two operands of one type (minnum, maxnum, smin, ...)."""
        right = self.cast_operand(b, a.type)
        return self.intrinsic(f"llvm.{name}.{_mangle(a.type)}", a.type, [a, right])

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        """``a * b + c``: one rounding where the target fuses, two elsewhere."""
        if not self.target.fused:
            return a * b + c
        return self.intrinsic(f"llvm.fma.{_mangle(c.type)}", c.type, [a, b, c])

    def select(self, condition: Val, a: Operand, b: Operand) -> Val:
        """`a` where the condition holds, else `b`."""
        kind = a.type if isinstance(a, Val) else b.type
        left, right = self.cast_operand(a, kind), self.cast_operand(b, kind)
        return Val(self, self.b.select(condition.v, left, right))

    def minimum(self, a: Val, b: Operand) -> Val:
        """Smaller of two signed integers."""
        return self.binary("smin", a, b)

    def maximum(self, a: Val, b: Operand) -> Val:
        """Larger of two signed integers."""
        return self.binary("smax", a, b)

    def variable(self, initial: Operand, kind: Any = None) -> Variable:
        """Mutable local with an initial value; `kind` is needed for Python numbers."""
        slot = Variable(self, kind if kind is not None else initial.type)
        slot.set(initial)
        return slot

    @contextmanager
    def loop(self, start: Operand, stop: Operand, step: Operand = 1) -> Iterator[Val]:
        """Counted loop over i64; the body sees the counter."""
        counter = self.variable(start, I64)
        head = self.function.append_basic_block("loop")
        body = self.function.append_basic_block("body")
        exit_ = self.function.append_basic_block("exit")
        self.b.branch(head)
        self.b.position_at_end(head)
        index = counter.get()
        self.b.cbranch((index < stop).v, body, exit_)
        self.b.position_at_end(body)
        yield index
        counter.set(index + step)
        self.b.branch(head)
        self.b.position_at_end(exit_)

    @contextmanager
    def while_(self, condition: Callable[[], Val]) -> Iterator[None]:
        """Loop while ``condition()``, emitted afresh at the head, holds."""
        head = self.function.append_basic_block("while")
        body = self.function.append_basic_block("body")
        exit_ = self.function.append_basic_block("exit")
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(condition().v, body, exit_)
        self.b.position_at_end(body)
        yield
        self.b.branch(head)
        self.b.position_at_end(exit_)

    @contextmanager
    def when(self, condition: Val) -> Iterator[None]:
        """Block that runs only where the scalar condition (i1) holds."""
        with self.b.if_then(condition.v):
            yield

    @contextmanager
    def branch(self, condition: Val) -> Iterator[tuple[Any, Any]]:
        """``with k.branch(c) as (then, otherwise): with then: ...; with otherwise: ...``."""
        with self.b.if_else(condition.v) as arms:
            yield arms

    def local_function(self, name: str, kinds: Sequence[Any], result: Any = I64) -> Any:
        """Declare a private function of the kernel's module; open it with `within`."""
        function = ir.Function(self.module, ir.FunctionType(result, list(kinds)), name)
        function.linkage = "internal"
        function.attributes.add("nounwind")
        function.attributes.add("noinline")
        return function

    @contextmanager
    def within(self, function: Any) -> Iterator[list[Val]]:
        """Emit into `function`; the body sees its arguments and must end with `ret`."""
        saved, outer = self.b, self.function
        self.function = function
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        yield [Val(self, argument) for argument in function.args]
        self.b, self.function = saved, outer

    def call(self, function: Any, arguments: Sequence[Operand]) -> Val:
        """Call of a local function."""
        kinds = function.function_type.args
        values = [self.cast_operand(a, t) for a, t in zip(arguments, kinds, strict=True)]
        return Val(self, self.b.call(function, values))

    def ret(self, status: Operand = 0) -> None:
        """Return `status` from the function being emitted."""
        self.b.ret(self.cast_operand(status, I64))


def _mangle(kind: Any) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_mangle(kind.element)}"
    if kind == F32:
        return "f32"
    return "f64" if kind == F64 else f"i{kind.width}"
