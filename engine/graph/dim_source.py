"""What dim expressions mean on Python integers, as straight-line code for many and as text.

Evaluation at bind runs once per new shape over every dim of a model, so the expressions of a model
are emitted as one function in which each common subexpression is computed once.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from engine.graph.dims import Atom, Dim

_VALUE_LIMIT: Final = 1 << 127


class DimError(ValueError):
    """A dim expression has no value: a bad broadcast, a division by zero, an unknown symbol."""


def _divide(numerator: int, denominator: int) -> int:
    if denominator == 0:
        raise DimError(f"division of dimension {numerator} by zero")
    return numerator // denominator


def _multiply(left: int, right: int) -> int:
    product = left * right
    # Nested products could otherwise grow without end: a hostile model is a dozen Mul nodes.
    if not -_VALUE_LIMIT < product < _VALUE_LIMIT:
        raise DimError("a dimension exceeds 128 bits")
    return product


def _broadcast(*sizes: int) -> int:
    result = 1
    for size in sizes:
        if size != 1:
            if result not in (1, size):
                raise DimError(f"dimensions {result} and {size} do not broadcast")
            result = size
    return result


def _scaled_floor(size: int, scale: float) -> int:
    return math.floor(float(np.float32(size) * np.float32(scale)))


def _select_stride(dim: int, stride: int) -> int:
    return 0 if dim == 1 else stride


PRIMITIVES: Final[dict[str, Callable[..., int]]] = {
    "divide": _divide,
    "multiply": _multiply,
    "minimum": min,
    "maximum": max,
    "broadcast": _broadcast,
    "scaled_floor": _scaled_floor,
    "select_stride": _select_stride,
}
"""Meaning of every operation that is not a sum of products."""


def atoms_in_order(dims: Iterable[Dim]) -> Iterator[Atom]:
    """Every atom below `dims` once, each after the atoms it is computed from.

    Iterative, since a long chain of nodes nests atoms deeper than Python recurses.
    """
    done: set[Atom] = set()
    stack: list[tuple[Atom, bool]] = []
    for dim in dims:
        stack.extend((atom, False) for monomial, _ in dim.terms for atom in monomial)
        while stack:
            atom, ready = stack.pop()
            if atom in done:
                continue
            if ready or not atom.args:
                done.add(atom)
                yield atom
                continue
            stack.append((atom, True))
            for argument in atom.args:
                stack.extend((a, False) for monomial, _ in argument.terms for a in monomial)


def bind_source(exprs: Sequence[Dim], symbols: Sequence[str]) -> str:
    """Python source of ``bind(*symbols) -> tuple[int, ...]``, which evaluates all of `exprs`.

    Parameters carry the symbols' names where those are identifiers. Raises DimError where an
    expression needs a symbol that is not listed.
    """
    parameters = [
        name
        if name.isidentifier()
        and name.isascii()
        and not keyword.iskeyword(name)
        and name not in PRIMITIVES
        else f"symbol_{position}_"
        for position, name in enumerate(symbols)
    ]
    if len(set(parameters)) != len(parameters):
        parameters = [f"symbol_{position}_" for position in range(len(symbols))]
    names = dict(zip(symbols, parameters, strict=True))
    taken = set(parameters)
    computed: dict[Any, str] = {}
    lines = [f"def bind({', '.join(parameters)}):"]

    def assign(key: Any, text: str) -> str:
        name = f"t{len(computed)}"
        while name in taken:
            name += "_"
        computed[key] = name
        lines.append(f"    {name} = {text}")
        return name

    def reference(dim: Dim) -> str:
        if dim.is_constant:
            return str(dim.value)
        if (atom := dim.atom) is not None:
            return computed[atom]
        return computed.get(dim) or assign(dim, _sum_of_products(dim, computed.__getitem__))

    for atom in atoms_in_order(exprs):
        if not atom.args:
            if atom.name not in names:
                raise DimError(f"no value for the symbol {atom.name!r}")
            computed[atom] = names[atom.name]
            continue
        arguments = [reference(argument) for argument in atom.args]
        if atom.name == "divide" and atom.args[1].is_constant:
            assign(atom, f"{arguments[0]} // {arguments[1]}")
        else:
            if atom.scale is not None:
                arguments.append(repr(atom.scale))
            assign(atom, f"{atom.name}({', '.join(arguments)})")
    results = [reference(expr) for expr in exprs]
    lines.append(f"    return ({', '.join(results)}{',' if len(results) == 1 else ''})")
    return "\n".join(lines) + "\n"


def compile_bind(exprs: Sequence[Dim], symbols: Sequence[str]) -> Callable[..., tuple[int, ...]]:
    """Compile `bind_source`; call the result with one int per symbol, in order.

    The call raises DimError where an expression has no value.
    """
    namespace: dict[str, Any] = dict(PRIMITIVES)
    exec(compile(bind_source(exprs, symbols), "<bind>", "exec"), namespace)
    function: Callable[..., tuple[int, ...]] = namespace["bind"]
    return function


def _sum_of_products(dim: Dim, name_of: Callable[[Atom], str]) -> str:
    text = ""
    for monomial, coefficient in dim.terms:
        factors = [name_of(atom) for atom in monomial]
        size = abs(coefficient)
        if size != 1 or not factors:
            factors.insert(0, str(size))
        sign = ("-" if coefficient < 0 else "") if not text else " - " if coefficient < 0 else " + "
        text += sign + "*".join(factors)
    return text


def dim_text(dim: Dim, depth: int) -> str:
    """Readable form of a dim, with operations below `depth` left out."""
    return _sum_of_products(dim, lambda atom: _atom_text(atom, depth)) or "0"


def _atom_text(atom: Atom, depth: int) -> str:
    if not atom.args:
        return atom.name
    if depth == 0:
        return "..."
    parts = [dim_text(dim, depth - 1) for dim in atom.args]
    if atom.name == "divide":
        simple = [dim.is_constant or dim.atom is not None for dim in atom.args]
        numerator, denominator = (
            part if plain else f"({part})" for part, plain in zip(parts, simple, strict=True)
        )
        return f"({numerator}//{denominator})"
    if atom.scale is not None:
        parts.append(f"{atom.scale:g}")
    return f"{atom.name}({', '.join(parts)})"
