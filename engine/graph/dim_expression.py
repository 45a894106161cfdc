"""Symbolic dimensions: hash-consed integer expressions with a normal form.

A `Dim` is a polynomial with integer coefficients over atoms. An atom is a symbol, or an operation
that is no sum of products: floor division, minimum, maximum, broadcast, scaled floor, stride
selection. Equal normal forms are the same object, so equality is one pointer comparison; the
interning tables hold weak references, so memory follows the expressions in use.

Symbols are non-negative (zero-sized dimensions exist); divisors are taken to be non-zero. Floor
division by `b` takes out the polynomial quotient, ``(q*b + r)//b = q + r//b``, cancels common
factors, and flattens nested divisions, ``(x//m + u)//n = (x + m*u)//(m*n)`` for positive
constants, both identities of floor division on integers (Graham, Knuth, Patashnik, Concrete
Mathematics, section 3.2).
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from engine.graph.dim_source import (
    PRIMITIVES,
    DimError,
    atoms_in_order,
    dim_text,
)
from engine.graph.polynomial import Monomial, Terms, cancel, divide, multiply, normal_form

_COEFFICIENT_LIMIT: Final = 1 << 100
_TERM_LIMIT: Final = 256
_DEGREE_LIMIT: Final = 16
_PROOF_DEPTH: Final = 4
_TEXT_DEPTH: Final = 6

_lock = threading.Lock()


class Atom:
    """A factor of a monomial: the symbol `name` (no `args`), or the operation `name` on `args`."""

    __slots__ = (
        "__weakref__",
        "args",
        "depth",
        "name",
        "nonnegative",
        "order",
        "scale",
        "symbols",
    )

    name: str
    args: tuple[Dim, ...]
    scale: float | None
    depth: int
    symbols: frozenset[str]
    nonnegative: bool
    order: tuple[int, str]

    def __reduce__(self) -> tuple[Callable[..., Atom], tuple[Any, ...]]:
        return _intern_atom, (self.name, self.args, self.scale)


class Dim:
    """An integer expression over symbols; build with `Dim.of`, `symbol` and the operators.

    ``==`` is equality of normal forms (an int compares with a constant); a true ``==`` means equal
    for all symbol values, a false one proves nothing. There is no truth value and no order.
    """

    __slots__ = ("__weakref__", "_atoms", "_hash", "_order", "depth", "symbols", "terms")

    terms: Terms
    depth: int
    symbols: frozenset[str]
    _hash: int
    _order: tuple[Any, ...]
    _atoms: tuple[Atom, ...]

    @staticmethod
    def of(value: int | Dim) -> Dim:
        """The constant `value`; a Dim is returned as it is."""
        if isinstance(value, Dim):
            return value
        value = int(value)
        known = _SMALL.get(value)
        if known is not None:
            return known
        if not -_COEFFICIENT_LIMIT < value < _COEFFICIENT_LIMIT:
            raise DimError("a dimension exceeds 100 bits")
        return _intern_dim((((), value),))

    @property
    def is_constant(self) -> bool:
        """Whether the value does not depend on symbols."""
        return not self.terms or not self.terms[0][0]

    @property
    def value(self) -> int:
        """Value of a constant; DimError for anything else."""
        if not self.terms:
            return 0
        if self.terms[0][0]:
            raise DimError(f"dimension {self} is not a constant")
        return self.terms[0][1]

    @property
    def atom(self) -> Atom | None:
        """The atom that this expression consists of, None where it is more or less than one."""
        if len(self.terms) == 1:
            monomial, coefficient = self.terms[0]
            if coefficient == 1 and len(monomial) == 1:
                return monomial[0]
        return None

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """Value for the given symbols; DimError where there is none."""
        if self.is_constant:
            return self.value
        values: dict[Atom, int] = {}
        if not self._atoms:
            self._atoms = tuple(atoms_in_order([self]))
        for atom in self._atoms:
            if not atom.args:
                if atom.name not in sizes:
                    raise DimError(f"no value for the symbol {atom.name!r}")
                values[atom] = int(sizes[atom.name])
                continue
            arguments: list[Any] = [_evaluate_terms(dim, values) for dim in atom.args]
            if atom.scale is not None:
                arguments.append(atom.scale)
            values[atom] = PRIMITIVES[atom.name](*arguments)
        return _evaluate_terms(self, values)

    def at_least(self, bound: int) -> bool:
        """Whether the value is proven to be >= `bound` for all symbol values."""
        return proven_nonnegative(self - bound, _PROOF_DEPTH)

    def never_one(self) -> bool:
        """Whether the value is proven to differ from 1, so that it never broadcasts."""
        if self.is_constant:
            return self.value != 1
        constant = 0 if self.terms[-1][0] else self.terms[-1][1]
        step = math.gcd(*(coefficient for monomial, coefficient in self.terms if monomial))
        return (1 - constant) % step != 0 or self.at_least(2)

    def __add__(self, other: Dim | int) -> Dim:
        return _combine(self, Dim.of(other), 1)

    def __sub__(self, other: Dim | int) -> Dim:
        return _combine(self, Dim.of(other), -1)

    def __mul__(self, other: Dim | int) -> Dim:
        return _product(self, Dim.of(other))

    def __floordiv__(self, other: Dim | int) -> Dim:
        return _quotient(self, Dim.of(other))

    def __mod__(self, other: Dim | int) -> Dim:
        return self - self // other * other

    def __neg__(self) -> Dim:
        return _combine(ZERO, self, -1)

    def __radd__(self, other: int) -> Dim:
        return Dim.of(other) + self

    def __rsub__(self, other: int) -> Dim:
        return Dim.of(other) - self

    def __rmul__(self, other: int) -> Dim:
        return Dim.of(other) * self

    def __rfloordiv__(self, other: int) -> Dim:
        return Dim.of(other) // self

    def __rmod__(self, other: int) -> Dim:
        return Dim.of(other) % self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, int):
            return self.is_constant and self.value == other
        return False

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        raise TypeError(f"dimension {self} has no truth value; compare it")

    def __reduce__(self) -> tuple[Callable[[Terms], Dim], tuple[Terms]]:
        return _intern_dim, (self.terms,)

    def __str__(self) -> str:
        return dim_text(self, _TEXT_DEPTH)

    def __repr__(self) -> str:
        return f"Dim({self})"


_atoms: WeakValueDictionary[tuple[Any, ...], Atom] = WeakValueDictionary()
_dims: WeakValueDictionary[Terms, Dim] = WeakValueDictionary()


def _intern_atom(name: str, args: tuple[Dim, ...] = (), scale: float | None = None) -> Atom:
    key = (name, args, scale)
    found = _atoms.get(key)
    if found is not None:
        return found
    atom = Atom()
    atom.name, atom.args, atom.scale = name, args, scale
    atom.depth = 1 + max((dim.depth for dim in args), default=0)
    if args:
        atom.symbols = frozenset().union(*(dim.symbols for dim in args))
        # A digest, since the text of a shared subexpression can be exponentially long.
        content = repr((name, scale, [dim._order for dim in args])).encode()
        atom.order = (atom.depth, name + hashlib.blake2b(content, digest_size=12).hexdigest())
    else:
        atom.symbols = frozenset((name,))
        atom.order = (1, name)
    proofs = (proven_nonnegative(dim, 1) for dim in args)
    atom.nonnegative = any(proofs) if name == "maximum" else all(proofs)
    with _lock:
        return _atoms.setdefault(key, atom)


def _intern_dim(terms: Terms) -> Dim:
    found = _dims.get(terms)
    if found is not None:
        return found
    dim = Dim()
    dim.terms = terms
    dim._atoms = ()
    atoms = {atom for monomial, _ in terms for atom in monomial}
    dim.depth = max((atom.depth for atom in atoms), default=0)
    dim.symbols = frozenset().union(*(atom.symbols for atom in atoms))
    dim._hash = hash(dim.value) if dim.is_constant else hash(terms)
    dim._order = tuple((tuple(atom.order for atom in m), c) for m, c in terms)
    with _lock:
        return _dims.setdefault(terms, dim)


def from_terms(terms: Mapping[Monomial, int]) -> Dim:
    """The sum of monomials with coefficients."""
    kept = normal_form(terms)
    for _, coefficient in kept:
        if not -_COEFFICIENT_LIMIT < coefficient < _COEFFICIENT_LIMIT:
            raise DimError("a dimension exceeds 100 bits")
    return _intern_dim(kept)


def apply(name: str, *args: Dim, scale: float | None = None) -> Dim:
    """The operation `name` on dims, as it is."""
    return _intern_dim((((_intern_atom(name, args, scale),), 1),))


_SMALL: dict[int, Dim] = {}
_SMALL.update({n: _intern_dim((((), n),) if n else ()) for n in range(-64, 1025)})
ZERO: Final = _SMALL[0]
ONE: Final = _SMALL[1]


def symbol(name: str) -> Dim:
    """The non-negative unknown called `name`; equal names are the same unknown."""
    return _intern_dim((((_intern_atom(name),), 1),))


def _evaluate_terms(dim: Dim, values: Mapping[Atom, int]) -> int:
    total = 0
    for monomial, coefficient in dim.terms:
        for atom in monomial:
            coefficient *= values[atom]
        total += coefficient
    return total


def _combine(a: Dim, b: Dim, sign: int) -> Dim:
    if not b.terms:
        return a
    if a.is_constant and b.is_constant:
        return Dim.of(a.value + sign * b.value)
    terms = dict(a.terms)
    for monomial, coefficient in b.terms:
        terms[monomial] = terms.get(monomial, 0) + sign * coefficient
    if len(terms) > _TERM_LIMIT:
        raise DimError(f"a dimension has more than {_TERM_LIMIT} terms")
    return from_terms(terms)


def _degree(dim: Dim) -> int:
    return len(dim.terms[0][0]) if dim.terms else 0


def _product(a: Dim, b: Dim) -> Dim:
    if a.is_constant and b.is_constant:
        return Dim.of(a.value * b.value)
    if a is ONE or b is ONE:
        return b if a is ONE else a
    if len(a.terms) * len(b.terms) > _TERM_LIMIT or _degree(a) + _degree(b) > _DEGREE_LIMIT:
        first, second = sorted((a, b), key=lambda dim: dim._order)
        return apply("multiply", first, second)
    return from_terms(multiply(a.terms, b.terms))


def _quotient(a: Dim, b: Dim) -> Dim:
    if not b.terms:
        raise DimError(f"division of dimension {a} by zero")
    if a is b:
        return ONE
    if b.terms[0][1] < 0:
        a, b = -a, -b
    if b is ONE or not a.terms:
        return a
    if a.is_constant and b.is_constant:
        return Dim.of(a.value // b.value)
    if not b.is_constant or a.terms[-1][0]:
        a, b = (from_terms(terms) for terms in cancel(a.terms, b.terms))
    quotient, rest = (from_terms(terms) for terms in divide(a.terms, b.terms))
    if quotient.terms:
        return quotient + _quotient(rest, b) if rest.terms else quotient
    if b is ONE:
        return a
    if b.is_constant:
        divisor = b.value
        factor = math.gcd(divisor, *(c for monomial, c in a.terms if monomial))
        if factor > 1:
            reduced = from_terms({monomial: c // factor for monomial, c in a.terms})
            return _quotient(reduced, Dim.of(divisor // factor))
        if a.is_constant:
            return Dim.of(a.value // divisor)
        for monomial, coefficient in a.terms:
            if coefficient == 1 and len(monomial) == 1 and monomial[0].name == "divide":
                atom = monomial[0]
                if atom.args and atom.args[1].is_constant and atom.args[1].value > 0:
                    inner, inner_divisor = atom.args
                    others = from_terms({m: c for m, c in a.terms if m != monomial})
                    return (inner + others * inner_divisor) // (inner_divisor * divisor)
    return apply("divide", a, b)


def proven_nonnegative(dim: Dim, depth: int) -> bool:
    """Sufficient condition for ``dim >= 0``: bounds one atom at a time until all terms are."""
    if dim.is_constant:
        return dim.value >= 0
    if all(c > 0 and all(atom.nonnegative for atom in m) for m, c in dim.terms):
        return True
    if depth == 0:
        return False
    for monomial, c in dim.terms:
        if len(monomial) != 1 or not monomial[0].args:
            continue
        name, args = monomial[0].name, monomial[0].args
        others = dim - from_terms({monomial: c})
        if name == ("maximum" if c > 0 else "minimum"):
            if any(proven_nonnegative(others + arg * c, depth - 1) for arg in args):
                return True
        elif name in ("maximum", "minimum"):
            if all(proven_nonnegative(others + arg * c, depth - 1) for arg in args):
                return True
        elif name == "divide" and args[1].is_constant and args[1].value > 0:
            # (x - n + 1)/n <= x//n <= x/n
            bound = args[0] - (args[1].value - 1) if c > 0 else args[0]
            if proven_nonnegative(others * args[1] + bound * c, depth - 1):
                return True
    return False
