"""Dims with other dims put in place of their symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from engine.graph.dim_expression import Atom
from engine.graph.dim_source import atoms_in_order
from engine.graph.dims import (
    Dim,
    broadcast,
    maximum,
    minimum,
    scaled_floor,
    select_stride,
    symbol,
)

_OPERATIONS: Final[Mapping[str, Callable[..., Dim]]] = {
    "divide": lambda a, b: a // b,
    "multiply": lambda a, b: a * b,
    "minimum": minimum,
    "maximum": maximum,
    "broadcast": broadcast,
    "select_stride": select_stride,
}


class Substitution:
    """Puts dims in place of symbols; what it has seen is remembered, since dims share their parts.

    Symbols that `values` does not name stay what they are.
    """

    def __init__(self, values: Mapping[str, Dim]) -> None:
        self._values = dict(values)
        self._atoms: dict[Atom, Dim] = {}
        self._dims: dict[Dim, Dim] = {}

    def __call__(self, dim: Dim) -> Dim:
        """The dim in normal form after substitution. Raises DimError where it has no value."""
        if not dim.symbols & self._values.keys():
            return dim
        found = self._dims.get(dim)
        if found is None:
            for atom in atoms_in_order([dim]):
                if atom not in self._atoms:
                    self._atoms[atom] = self._replaced(atom)
            found = self._dims[dim] = self._sum(dim)
        return found

    def _replaced(self, atom: Atom) -> Dim:
        if not atom.args:
            return self._values.get(atom.name, symbol(atom.name))
        arguments = [self._sum(argument) for argument in atom.args]
        if atom.scale is not None:
            return scaled_floor(arguments[0], atom.scale)
        return _OPERATIONS[atom.name](*arguments)

    def _sum(self, dim: Dim) -> Dim:
        total = Dim.of(0)
        for monomial, coefficient in dim.terms:
            product = Dim.of(coefficient)
            for atom in monomial:
                product = product * self._atoms[atom]
            total = total + product
        return total
