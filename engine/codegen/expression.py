"""A small typed language of scalar expressions, and its translation to the kernel language.

An `Expr` says what happens to one element: of a fused chain of element-wise operators, or of the
result of a dot kernel in its epilogue. Expressions are hash-consed: equal ones are one object, so
that a shared subexpression is emitted once and comparing costs nothing. Data types are numpy's
names; a ``bool`` lies in memory as a byte and travels in registers as one bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

import llvmlite.ir as ir
import numpy as np

from engine.codegen.builder import I1, TYPES, KernelBuilder, Val
from engine.codegen.halves import HALVES
from engine.codegen.scalar_operations import OPERATIONS

Payload = int | str | None

FLOATS: Final = frozenset({"float32", "float64"})
COMPARISONS: Final = frozenset({"equal", "less", "less_equal", "greater", "greater_equal"})
PREDICATES: Final = COMPARISONS | {"isnan", "isinf"}

_interned: WeakValueDictionary[tuple[Any, ...], Expr] = WeakValueDictionary()
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Expr:
    """Operation `op` on `args`, giving one element of `dtype`.

    `value` is the index of an ``input``, or what a ``constant`` is: an int, or a float as
    hexadecimal text (so that NaN, -0.0 and every bit survive hashing and JSON).
    """

    op: str
    args: tuple[Expr, ...] = ()
    value: Payload = None
    dtype: str = "float32"

    def __new__(
        cls,
        op: str,
        args: tuple[Expr, ...] = (),
        value: Payload = None,
        dtype: str = "float32",
    ) -> Expr:
        """The one object of these fields; ValueError for an unknown operation or data type."""
        if op not in OPERATIONS and op not in ("input", "constant"):
            raise ValueError(f"no scalar operation is called {op!r}")
        if dtype not in TYPES:
            raise ValueError(f"expressions have no data type {dtype!r}")
        with _lock:
            return _interned.setdefault((op, args, value, dtype), super().__new__(cls))

    def __reduce__(self) -> tuple[type[Expr], tuple[Any, ...]]:
        return Expr, (self.op, self.args, self.value, self.dtype)

    @staticmethod
    def input(index: int, dtype: str) -> Expr:
        """Element of input `index`."""
        return Expr("input", (), int(index), dtype)

    @staticmethod
    def constant(value: float | int | bool, dtype: str) -> Expr:
        """A constant, rounded to `dtype`."""
        if dtype in FLOATS:
            rounded = float(np.dtype(dtype).type(value))
            return Expr("constant", (), rounded.hex(), dtype)
        return Expr("constant", (), int(value), dtype)

    @staticmethod
    def of(op: str, *args: Expr) -> Expr:
        """Operation on operands of one data type; predicates give bool, others the operands' type.

        ``select`` takes a bool first.
        """
        kinds = {arg.dtype for arg in (args[1:] if op == "select" else args)}
        if len(kinds) != 1:
            raise ValueError(f"operands of {op} differ in data type: {sorted(kinds)}")
        return Expr(op, args, None, "bool" if op in PREDICATES else kinds.pop())

    def cast(self, dtype: str) -> Expr:
        """Conversion as ONNX's Cast; one that lost nothing before it is left out."""
        if self.op == "cast" and _keeps_values(self.args[0].dtype, self.dtype):
            return self.args[0].cast(dtype)
        return self if dtype == self.dtype else Expr("cast", (self,), None, dtype)

    @property
    def number(self) -> float | int:
        """Value of a constant."""
        assert self.op == "constant", self.op
        return float.fromhex(self.value) if isinstance(self.value, str) else int(self.value or 0)

    def nodes(self) -> list[Expr]:
        """Every distinct subexpression once, operands before their users, itself last."""
        return list(_postorder((self,)))

    @property
    def inputs(self) -> tuple[Expr, ...]:
        """The distinct inputs that are read, by index."""
        found = [node for node in self.nodes() if node.op == "input"]
        return tuple(sorted(found, key=lambda node: int(node.value or 0)))

    @property
    def operations(self) -> int:
        """Number of distinct operations."""
        return sum(node.op not in ("input", "constant") for node in self.nodes())

    def substitute(self, replacements: dict[int, Expr]) -> Expr:
        """The expression with inputs replaced by expressions of the same data type."""
        results: dict[Expr, Expr] = {}
        for node in self.nodes():
            if node.op == "input" and node.value in replacements:
                replacement = replacements[int(node.value)]
                assert replacement.dtype == node.dtype, (replacement.dtype, node.dtype)
                results[node] = replacement
            else:
                args = tuple(results[arg] for arg in node.args)
                results[node] = Expr(node.op, args, node.value, node.dtype)
        return results[self]

    def to_json(self) -> list[Any]:
        """One ``[op, dtype, value, *operand positions]`` per distinct subexpression."""
        return to_json((self,))[0]

    @staticmethod
    def from_json(content: Sequence[Any]) -> Expr:
        """The expression that `to_json` wrote."""
        built: list[Expr] = []
        for op, dtype, value, *operands in content:
            built.append(Expr(op, tuple(built[i] for i in operands), value, dtype))
        return built[-1]

    def __str__(self) -> str:
        if self.op == "input":
            return f"x{self.value}"
        if self.op == "constant":
            return f"{self.number:g}" if self.dtype in FLOATS else str(self.value)
        name = self.dtype if self.op == "cast" else self.op
        return f"{name}({', '.join(map(str, self.args))})"


def _postorder(roots: Sequence[Expr]) -> Iterator[Expr]:
    seen: set[Expr] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))


def to_json(roots: Sequence[Expr]) -> list[list[Any]]:
    """Each root as `Expr.to_json`."""
    results = []
    for root in roots:
        nodes = root.nodes()
        places = {node: place for place, node in enumerate(nodes)}
        results.append([[n.op, n.dtype, n.value, *(places[arg] for arg in n.args)] for n in nodes])
    return results


def emit(k: KernelBuilder, expr: Expr, inputs: Sequence[Val]) -> Val:
    """Code for the value of `expr`; ``inputs[i]`` holds what ``Expr.input(i)`` reads.

    Inputs are scalars or vectors of one lane count, mixed at will: what depends on scalars alone is
    computed once per scalar. The result is a vector as soon as any input is one; a bool comes in as
    a byte or a bit and is returned as a byte.
    """
    return emit_all(k, (expr,), inputs)[0]


def emit_all(k: KernelBuilder, exprs: Sequence[Expr], inputs: Sequence[Val]) -> list[Val]:
    """As `emit`, for several expressions that may share subexpressions."""
    lanes = max((lanes_of(value) for value in inputs), default=0)
    values: dict[Expr, Val] = {}
    for node in _postorder(exprs):
        if node.op == "input":
            value = inputs[int(node.value or 0)]
            if node.dtype == "bool" and _scalar_type(value) != I1:
                value = value.differs(0)
            values[node] = value
        elif node.op == "constant":
            values[node] = k.const(node.number, _register_type(node.dtype))
        else:
            args = [values[arg] for arg in node.args]
            wide = max(lanes_of(value) for value in args)
            args = [_widen(k, value, arg, wide) for value, arg in zip(args, node.args, strict=True)]
            values[node] = OPERATIONS[node.op](k, node, args)
    results = []
    for expr in exprs:
        value = _widen(k, values[expr], expr, lanes)
        if expr.dtype == "bool":
            byte = TYPES["bool"]
            value = Val(k, k.b.zext(value.v, ir.VectorType(byte, lanes) if lanes else byte))
        results.append(value)
    return results


def lanes_of(value: Val) -> int:
    """Lanes of a vector, 0 for a scalar."""
    return int(value.type.count) if isinstance(value.type, ir.VectorType) else 0


def never_nan(expr: Expr) -> bool:
    """Whether the value is known not to be NaN."""
    if expr.dtype not in FLOATS:
        return True
    return expr.op == "constant" and not math.isnan(expr.number)


def _keeps_values(source: str, target: str) -> bool:
    """Whether every value of `source` is one of `target`."""
    if source in HALVES or target in HALVES:
        return source == target or (source in HALVES and target in FLOATS)
    return bool(np.can_cast(source, target, "safe")) and (source, target) not in _ROUNDED


_ROUNDED: Final = {("int64", "float64"), ("uint64", "float64")}
"""What numpy calls safe although large values are rounded."""


def _scalar_type(value: Val) -> Any:
    return value.type.element if isinstance(value.type, ir.VectorType) else value.type


def _register_type(dtype: str) -> Any:
    return I1 if dtype == "bool" else TYPES[dtype]


def _widen(k: KernelBuilder, value: Val, expr: Expr, lanes: int) -> Val:
    if not lanes or lanes_of(value):
        return value
    if expr.op == "constant":
        return k.const(expr.number, ir.VectorType(_scalar_type(value), lanes))
    return k.splat(value, lanes)
