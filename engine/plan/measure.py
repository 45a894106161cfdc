"""Measured sizes and required equalities: what the host settles before a program is bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError
from engine.graph.dims import Dim, DimError
from engine.graph.ir import OURS, Node, Value


@dataclass(frozen=True)
class Requirement:
    """Two dims that must be equal for the sizes where `when` is 1, and what to say otherwise."""

    left: Dim
    right: Dim
    message: str
    when: Dim

    @property
    def symbols(self) -> frozenset[str]:
        """Sizes that must be known to check it."""
        return self.left.symbols | self.right.symbols | self.when.symbols

    def check(self, sizes: Mapping[str, int], model: str) -> None:
        """Raise InputError where the sizes break it."""
        try:
            if not self.when.evaluate(sizes):
                return
            if self.left.evaluate(sizes) == self.right.evaluate(sizes):
                return
        except DimError as error:
            raise InputError(f"{model}: {error}") from error
        raise InputError(f"{model}: {self.message}")


def check_known(
    requirements: Iterable[Requirement], sizes: Mapping[str, int], model: str
) -> list[Requirement]:
    """Check every requirement whose sizes are known; the others are returned."""
    left = []
    for requirement in requirements:
        if requirement.symbols <= sizes.keys():
            requirement.check(sizes, model)
        else:
            left.append(requirement)
    return left


@dataclass(eq=False)
class Measure:
    """A ``packhorse.Sizes`` node: numbers of tensors become sizes.

    `inputs` are the tensors, None where only the shape of one is needed; `shape` is that of the
    first. `symbols` names for each number its size, and for one that may be negative a second that
    holds what is below zero.
    """

    label: str
    inputs: tuple[Value | None, ...]
    shape: tuple[Dim, ...]
    symbols: tuple[tuple[str, str | None], ...]
    options: dict[str, Any]

    @classmethod
    def of(cls, node: Node) -> Measure:
        """The measurement that a node asks for."""
        first, dims = node.inputs[0], node.outputs[0].dims
        assert first is not None
        assert dims is not None
        return cls(
            node.label,
            tuple(measured_inputs(node)),
            first.shape or (),
            tuple(_symbols(dim) for dim in dims),
            dict(node.attributes),
        )

    def run(self, arrays: Sequence[Any], sizes: dict[str, int], model: str) -> tuple[int, ...]:
        """Enter the sizes that `arrays` (those of `inputs`) hold; also returns the numbers.

        Raises InputError for numbers that are not valid.
        """
        from engine.runtime.sizes import measure

        try:
            shape = tuple(dim.evaluate(sizes) for dim in self.shape)
            numbers = measure(arrays, shape, self.options)
        except (ValueError, DimError) as error:
            raise InputError(f"{model}: {self.label}: {error}") from error
        if len(numbers) != len(self.symbols):
            count = len(self.symbols)
            raise InputError(f"{model}: {self.label}: {len(numbers)} numbers instead of {count}")
        for (name, below), number in zip(self.symbols, numbers, strict=True):
            if number < 0 and below is None:
                raise InputError(f"{model}: {self.label}: {number} is no size")
            sizes[name] = max(number, 0)
            if below is not None:
                sizes[below] = max(-number, 0)
        return tuple(numbers)


def is_measure(node: Node) -> bool:
    """Whether a node measures sizes."""
    return node.op == "Sizes" and node.domain == OURS


def measured_inputs(node: Node) -> list[Value | None]:
    """Inputs of a Sizes node whose elements are measured; None for one that gives its shape."""
    from engine.runtime.sizes import SHAPE_ONLY

    first, *rest = node.inputs
    return [None if node.attribute("of") in SHAPE_ONLY else first, *rest]


def _symbols(dim: Dim) -> tuple[str, str | None]:
    """Names of the symbols of ``name`` or ``name - below``."""
    found = {sign: next(iter(monomial[0].symbols)) for monomial, sign in dim.terms}
    return found[1], found.get(-1)
