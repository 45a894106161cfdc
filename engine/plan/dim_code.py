"""Dim expressions as register code, evaluated natively when a program is bound.

Every distinct subexpression is one instruction ``[operation, a, b, c]``, whose operands are numbers
of registers and whose result goes to the next register. Registers hold the sizes of the symbols,
then the results of the instructions, then constants. Nearly everything is ``a * b + c``, since a
dim is a polynomial over atoms. `DimCode.evaluate` interprets the same code in Python: it decides
what a failure of the native evaluation meant, and tests compare the two.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.graph.dim_source import PRIMITIVES, DimError, atoms_in_order
from engine.graph.dims import Dim
from engine.runtime.layout import INSTRUCTION_WORDS, DimOperation

Words = np.ndarray[Any, np.dtype[np.int64]]

_BINARY: Final[dict[str, DimOperation]] = {
    "divide": DimOperation.DIVIDE,
    "minimum": DimOperation.MINIMUM,
    "maximum": DimOperation.MAXIMUM,
    "broadcast": DimOperation.BROADCAST,
    "select_stride": DimOperation.SELECT_STRIDE,
}


@dataclass(frozen=True, eq=False)
class DimCode:
    """Code for many expressions over the same symbols.

    `instructions` has shape [count, 4]; `constants` are the values of the last registers, a scale
    being the bits of its float32; `results` gives the register of every expression.
    """

    symbols: tuple[str, ...]
    instructions: Words
    constants: Words
    results: Words

    @property
    def registers(self) -> int:
        """Number of registers."""
        return len(self.symbols) + len(self.instructions) + len(self.constants)

    def evaluate(self, sizes: Sequence[int]) -> list[int]:
        """Values of the expressions for the symbols' sizes; DimError where one has none."""
        registers = [*sizes, *[0] * len(self.instructions), *self.constants.tolist()]
        for place, (code, a, b, c) in enumerate(self.instructions.tolist(), len(self.symbols)):
            registers[place] = _PYTHON[code](registers[a], registers[b], registers[c])
        return [registers[place] for place in self.results.tolist()]


def _scaled_floor(size: int, bits: int, _: int) -> int:
    (scale,) = struct.unpack("f", struct.pack("I", bits))
    return PRIMITIVES["scaled_floor"](size, scale)


def _multiply_add(a: int, b: int, c: int) -> int:
    return PRIMITIVES["multiply"](a, b) + c


def _binary(name: str) -> Callable[[int, int, int], int]:
    return lambda a, b, _: PRIMITIVES[name](a, b)


_PYTHON: Final[dict[int, Callable[[int, int, int], int]]] = {
    DimOperation.MULTIPLY_ADD: _multiply_add,
    DimOperation.SCALED_FLOOR: _scaled_floor,
    **{operation: _binary(name) for name, operation in _BINARY.items()},
}


class _Encoder:
    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = {name: place for place, name in enumerate(symbols)}
        self._first = len(self._symbols)
        self._instructions: list[tuple[int, int, int, int]] = []
        self._known: dict[tuple[int, int, int, int], int] = {}
        self._constants: dict[int, int] = {}
        self._atoms: dict[Any, int] = {}
        self._zero, self._one = self._constant(0), self._constant(1)

    def _constant(self, value: int) -> int:
        """Register of a constant: negative until the number of instructions is known."""
        return self._constants.setdefault(value, -1 - len(self._constants))

    def _emit(self, operation: DimOperation, a: int, b: int, c: int) -> int:
        key = (int(operation), a, b, c)
        if key not in self._known:
            self._known[key] = self._first + len(self._instructions)
            self._instructions.append(key)
        return self._known[key]

    def atoms(self, exprs: Sequence[Dim]) -> None:
        """Emit every atom below the expressions."""
        for atom in atoms_in_order(exprs):
            if not atom.args:
                if atom.name not in self._symbols:
                    raise DimError(f"no value for the symbol {atom.name!r}")
                self._atoms[atom] = self._symbols[atom.name]
                continue
            arguments = [self.dim(argument) for argument in atom.args]
            if atom.name == "scaled_floor":
                (bits,) = struct.unpack("I", struct.pack("f", atom.scale))
                scale = self._constant(bits)
                found = self._emit(DimOperation.SCALED_FLOOR, arguments[0], scale, self._zero)
            elif atom.name == "multiply":
                left, right = arguments
                found = self._emit(DimOperation.MULTIPLY_ADD, left, right, self._zero)
            else:
                found = arguments[0]
                for argument in arguments[1:]:
                    found = self._emit(_BINARY[atom.name], found, argument, self._zero)
            self._atoms[atom] = found

    def dim(self, dim: Dim) -> int:
        """Register of a dim whose atoms were emitted."""
        if dim.is_constant:
            return self._constant(dim.value)
        total = self._zero
        # The constant term stands last: begin with it.
        for monomial, coefficient in reversed(dim.terms):
            if not monomial:
                total = self._constant(coefficient)
                continue
            factors = [self._atoms[atom] for atom in monomial]
            if coefficient != 1 or len(factors) == 1:
                factors.append(self._one if coefficient == 1 else self._constant(coefficient))
            product = factors[0]
            for factor in factors[1:-1]:
                product = self._emit(DimOperation.MULTIPLY_ADD, product, factor, self._zero)
            if total == self._zero and factors[-1] == self._one:
                total = product
            else:
                total = self._emit(DimOperation.MULTIPLY_ADD, product, factors[-1], total)
        return total

    def finish(self, symbols: Sequence[str], results: Sequence[int]) -> DimCode:
        """The code, with constants numbered after the instructions."""
        first = self._first + len(self._instructions)
        instructions = np.array(self._instructions, np.int64).reshape(-1, INSTRUCTION_WORDS)
        places = np.array(results, np.int64)
        for array in (instructions, places):
            array[array < 0] = first - 1 - array[array < 0]
        constants = np.array(list(self._constants), np.int64)
        return DimCode(tuple(symbols), instructions, constants, places)


def encode(exprs: Sequence[Dim], symbols: Sequence[str]) -> DimCode:
    """Code that evaluates all of `exprs`.

    Raises DimError where an expression needs a symbol that is not listed, or a constant that has
    no place in a 64-bit word.
    """
    encoder = _Encoder(symbols)
    encoder.atoms(exprs)
    results = [encoder.dim(expr) for expr in exprs]
    try:
        return encoder.finish(symbols, results)
    except OverflowError:
        raise DimError("a dimension exceeds 64 bits") from None
