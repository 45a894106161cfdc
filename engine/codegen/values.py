"""Operands of the kernel language: SSA values with Python's operators, and mutable locals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llvmlite.ir as ir

if TYPE_CHECKING:
    from engine.codegen.builder import KernelBuilder

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
PTR = ir.PointerType()
TYPES = {
    "float32": F32,
    "float64": F64,
    "int64": I64,
    "int32": I32,
    "int16": I16,
    "int8": I8,
    "uint64": I64,
    "uint32": I32,
    "uint16": I16,
    "uint8": I8,
    "bool": I8,
    "float16": I16,
    "bfloat16": I16,
}
"""How each numpy data type is stored; signedness is the operation's business."""

SIGNATURE = ir.FunctionType(I64, [PTR, PTR, I64, I64])
Operand = Any
"""A `Val`, or a Python number that becomes a constant of the other operand's type."""


def element_bytes(dtype: str) -> int:
    """Bytes of an element in memory."""
    kind = TYPES[dtype]
    return 8 if kind == F64 else 4 if kind == F32 else int(kind.width) // 8


def element(kind: Any) -> Any:
    """Element type of a vector type; the type itself for a scalar."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def is_float(kind: Any) -> bool:
    """Whether `kind` is a floating-point scalar or vector type."""
    return isinstance(element(kind), (ir.FloatType, ir.DoubleType))


class Val:
    """An SSA value with Python's operators; integers are signed, comparisons ordered."""

    __slots__ = ("k", "v")

    def __init__(self, k: KernelBuilder, v: Any) -> None:
        self.k = k
        self.v = v

    @property
    def type(self) -> Any:
        """LLVM type of the value."""
        return self.v.type

    def _binary(self, other: Operand, integer: str, real: str, swap: bool = False) -> Val:
        right = self.k.cast_operand(other, self.type)
        left, right = (right, self.v) if swap else (self.v, right)
        name = real if is_float(self.type) else integer
        return Val(self.k, getattr(self.k.b, name)(left, right))

    def __add__(self, other: Operand) -> Val:
        if self.type == PTR:
            return self.k.offset(self, other)
        return self._binary(other, "add", "fadd")

    def __radd__(self, other: Operand) -> Val:
        return self._binary(other, "add", "fadd", swap=True)

    def __sub__(self, other: Operand) -> Val:
        return self._binary(other, "sub", "fsub")

    def __rsub__(self, other: Operand) -> Val:
        return self._binary(other, "sub", "fsub", swap=True)

    def __mul__(self, other: Operand) -> Val:
        return self._binary(other, "mul", "fmul")

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Val:
        return self._binary(other, "sdiv", "fdiv")

    def __rtruediv__(self, other: Operand) -> Val:
        return self._binary(other, "sdiv", "fdiv", swap=True)

    def __floordiv__(self, other: Operand) -> Val:
        """Quotient of non-negative integers."""
        return self._binary(other, "udiv", "fdiv")

    def __mod__(self, other: Operand) -> Val:
        """Remainder of non-negative integers."""
        return self._binary(other, "urem", "frem")

    def __and__(self, other: Operand) -> Val:
        return self._binary(other, "and_", "and_")

    def __or__(self, other: Operand) -> Val:
        return self._binary(other, "or_", "or_")

    def __xor__(self, other: Operand) -> Val:
        return self._binary(other, "xor", "xor")

    def __lshift__(self, other: Operand) -> Val:
        return self._binary(other, "shl", "shl")

    def __rshift__(self, other: Operand) -> Val:
        """Arithmetic shift to the right."""
        return self._binary(other, "ashr", "ashr")

    def __neg__(self) -> Val:
        return Val(self.k, self.k.b.fneg(self.v) if is_float(self.type) else self.k.b.neg(self.v))

    def _compare(self, operator: str, other: Operand) -> Val:
        right = self.k.cast_operand(other, self.type)
        if is_float(self.type):
            compare = self.k.b.fcmp_unordered if operator == "!=" else self.k.b.fcmp_ordered
            return Val(self.k, compare(operator, self.v, right))
        return Val(self.k, self.k.b.icmp_signed(operator, self.v, right))

    def __lt__(self, other: Operand) -> Val:
        return self._compare("<", other)

    def __le__(self, other: Operand) -> Val:
        return self._compare("<=", other)

    def __gt__(self, other: Operand) -> Val:
        return self._compare(">", other)

    def __ge__(self, other: Operand) -> Val:
        return self._compare(">=", other)

    def equals(self, other: Operand) -> Val:
        """Element-wise equality (Python's ``==`` stays identity)."""
        return self._compare("==", other)

    def differs(self, other: Operand) -> Val:
        """Element-wise inequality; true for NaN."""
        return self._compare("!=", other)


class Variable:
    """A mutable local; LLVM's mem2reg turns it into registers."""

    __slots__ = ("k", "slot", "type")

    def __init__(self, k: KernelBuilder, kind: Any) -> None:
        self.k = k
        self.type = kind
        self.slot = k.stack(kind).v

    def get(self) -> Val:
        """Current value."""
        return Val(self.k, self.k.b.load(self.slot, typ=self.type))

    def set(self, value: Operand) -> None:
        """Replace the value."""
        self.k.b.store(self.k.cast_operand(value, self.type), self.slot)

    def add(self, value: Operand) -> None:
        """Add to the value in place (byte offset for a pointer)."""
        self.set(self.get() + value)
