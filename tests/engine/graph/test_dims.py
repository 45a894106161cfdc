import copy
import functools
import gc
import math
import pickle
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.graph import dim_expression
from engine.graph.dims import (
    Dim,
    DimError,
    broadcast,
    ceildiv,
    maximum,
    minimum,
    scaled_floor,
    select_stride,
    symbol,
)
from engine.plan.dim_code import encode

NAMES = ("N", "H", "unk__438")
N, H, W = (symbol(name) for name in NAMES)
Formula = tuple[Dim, Callable[[dict[str, int]], int]]


def _broadcast(left: int, right: int) -> int:
    if left != right and 1 not in (left, right):
        raise ZeroDivisionError
    return right if left == 1 else left


OPERATIONS: dict[str, tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = {
    "+": (lambda a, b: a + b, lambda a, b: a + b),
    "-": (lambda a, b: a - b, lambda a, b: a - b),
    "*": (lambda a, b: a * b, lambda a, b: a * b),
    "//": (lambda a, b: a // b, lambda a, b: a // b),
    "%": (lambda a, b: a % b, lambda a, b: a % b),
    "ceildiv": (ceildiv, lambda a, b: -(-a // b)),
    "minimum": (minimum, min),
    "maximum": (maximum, max),
    "broadcast": (broadcast, _broadcast),
    "select_stride": (select_stride, lambda a, b: 0 if a == 1 else b),
}


def _join(name: str, left: Formula, right: Formula) -> Formula | None:
    symbolic, concrete = OPERATIONS[name]
    try:
        dim = symbolic(left[0], right[0])
    except DimError:
        return None
    return dim, lambda sizes: concrete(left[1](sizes), right[1](sizes))


def formulas() -> st.SearchStrategy[Formula]:
    """An expression as a Dim beside the same expression on Python integers."""
    leaves: st.SearchStrategy[Formula] = st.one_of(
        st.integers(-9, 9).map(lambda n: (Dim.of(n), lambda sizes: n)),
        st.sampled_from(NAMES).map(lambda name: (symbol(name), lambda sizes: sizes[name])),
    )
    return st.recursive(
        leaves,
        lambda inner: st.builds(_join, st.sampled_from(sorted(OPERATIONS)), inner, inner).filter(
            lambda formula: formula is not None
        ),
        max_leaves=12,
    )


SIZES = st.fixed_dictionaries({name: st.integers(0, 40) for name in NAMES})


@settings(max_examples=600, deadline=None)
@given(formulas(), SIZES)
def test_evaluation_is_integer_arithmetic(formula: Formula, sizes: dict[str, int]) -> None:
    dim, concrete = formula
    try:
        expected = concrete(sizes)
    except ZeroDivisionError:
        assume(False)
    assert dim.evaluate(sizes) == expected
    code = encode([dim, dim + 1], NAMES)
    assert code.evaluate([sizes[n] for n in NAMES]) == [expected, expected + 1]
    text = str(dim)
    assert "..." in text or eval(text, dict(dim_expression.PRIMITIVES), sizes) == expected


@settings(max_examples=300, deadline=None)
@given(formulas(), st.integers(-20, 20), SIZES)
def test_a_proven_bound_holds(formula: Formula, bound: int, sizes: dict[str, int]) -> None:
    dim, concrete = formula
    assume(dim.at_least(bound))
    try:
        value = concrete(sizes)
    except ZeroDivisionError:
        assume(False)
    assert value >= bound


@settings(max_examples=300, deadline=None)
@given(formulas(), SIZES)
def test_what_is_proven_never_to_be_one_is_not(formula: Formula, sizes: dict[str, int]) -> None:
    dim, concrete = formula
    assume(dim.never_one())
    try:
        value = concrete(sizes)
    except ZeroDivisionError:
        assume(False)
    assert value != 1


@settings(max_examples=300, deadline=None)
@given(formulas(), formulas(), formulas())
def test_ring_identities_have_one_normal_form(a: Formula, b: Formula, c: Formula) -> None:
    x, y, z = a[0], b[0], c[0]
    assert (x + y) + z is x + (y + z)
    assert x * y is y * x
    assert x - x is Dim.of(0)
    assert x * (y + z) is x * y + x * z or "multiply" in str(x * (y + z))
    assert minimum(x, y) is minimum(y, x)
    assert maximum(x, y, x) is maximum(y, x)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((N * H) // H, N),
        ((6 * N + 4 * W) // 4, N + W + (2 * N) // 4),
        ((8 * N + H) // 8, N + H // 8),
        (2 * (N + 1), 2 * N + 2),
        (N * (H + 1) // (H + 1), N),
        ((N * H * 3) // (H * 3), N),
        ((N * H * 8) // (4 * H * W), (2 * N) // W),
        ((N // 2) // 3, N // 6),
        (((H + 1) // 2 + 1) // 2, (H + 3) // 4),
        ((2 * N + 1) // 4, N // 2),
        (4 * (N // 4) + N % 4, N),
        (ceildiv(8 * N, 8), N),
        (ceildiv(N * H, H), N),
        (minimum(N, N + 3, 2 * N), N),
        (maximum(0, N), N),
        (maximum(N, maximum(H + 1, W + 1)), maximum(maximum(W + 1, N), H + 1)),
        (maximum(N - 2, N) - N, Dim.of(0)),
        (minimum(N + 2, H + 2), minimum(N, H) + 2),
        (maximum(0, N - N // 2), N - N // 2),
        (broadcast(N, 1), N),
        (broadcast(N, broadcast(H, N)), broadcast(H, N)),
        (scaled_floor(N, 2.0), 2 * N),
        (scaled_floor(N, 0.25), N // 4),
        (select_stride(1, N), Dim.of(0)),
        (select_stride(N + 2, 4), Dim.of(4)),
    ],
)
def test_equal_expressions_are_one_object(left: Dim, right: Dim) -> None:
    assert left is right


def test_constants() -> None:
    assert Dim.of(3).is_constant
    assert Dim.of(100_000).value == 100_000
    assert Dim.of(7) == 7
    assert hash(Dim.of(7)) == hash(7)
    assert not N.is_constant
    assert N.symbols == {"N"}
    assert (N * 0).symbols == frozenset()
    assert (H // N + W).symbols == {"H", "N", "unk__438"}
    with pytest.raises(DimError, match="not a constant"):
        _ = N.value
    with pytest.raises(TypeError, match="truth value"):
        bool(N)


@given(st.integers(0, 5000), st.floats(0.0078125, 9, width=32))
def test_scaled_floor_is_float32(size: int, scale: float) -> None:
    expected = math.floor(float(np.float32(size) * np.float32(scale)))
    assert scaled_floor(size, scale) == expected
    assert scaled_floor(N, scale).evaluate({"N": size}) == expected


def test_what_has_no_value_is_an_error() -> None:
    with pytest.raises(DimError, match="do not broadcast"):
        broadcast(3, 4)
    with pytest.raises(DimError, match="do not broadcast"):
        broadcast(N, 4).evaluate({"N": 3})
    assert broadcast(N, 4).evaluate({"N": 1}) == 4
    assert broadcast(N, 1, H).evaluate({"N": 1, "H": 0}) == 0
    with pytest.raises(DimError, match="zero"):
        N // 0
    with pytest.raises(DimError, match="zero"):
        (N // H).evaluate({"N": 1, "H": 0})
    with pytest.raises(DimError, match="'H'"):
        H.evaluate({"N": 1})
    with pytest.raises(DimError, match="'H'"):
        encode([H], ["N"])


def test_code_computes_common_subexpressions_once() -> None:
    half = (H + 1) // 2
    code = encode([half * N, half, half // 3 + half], ["N", "H"])
    # H + 1, its half, times N, a third of that, and their sum.
    assert len(code.instructions) == 5
    assert code.evaluate([3, 8]) == [12, 4, 5]
    assert encode([], []).evaluate([]) == []


def test_symbols_may_have_any_name() -> None:
    names = ["t0", "lambda", "a b", "input.1", "divide", "symbol_2_"]
    total = Dim.of(0)
    for power, name in enumerate(names):
        total += symbol(name) * 10**power
    assert encode([total // 7 * 2], names).evaluate([1, 2, 3, 4, 5, 6]) == [654321 // 7 * 2]


def test_memory_follows_the_expressions_in_use() -> None:
    kept = weakref.ref((symbol("short_lived") + 12345) // 7)
    gc.collect()
    assert kept() is None
    before = len(dim_expression._dims), len(dim_expression._atoms)
    for number in range(2000):
        _ = (symbol(f"x{number}") + 5000 + number) // 3
    gc.collect()
    assert (len(dim_expression._dims), len(dim_expression._atoms)) <= (before[0] + 5, before[1] + 5)


def test_copies_and_pickles_are_the_same_object() -> None:
    dim = (N * 3 + minimum(H, W)) // 2 + scaled_floor(N, 1.3)
    assert copy.deepcopy(dim) is dim
    assert pickle.loads(pickle.dumps(dim)) is dim


def test_threads_agree_on_objects() -> None:
    results: list[list[Dim]] = [[] for _ in range(4)]
    barrier = threading.Barrier(4)

    def build(target: list[Dim]) -> None:
        barrier.wait()
        target.extend((symbol(f"thread{i}") * 2 + 1) // 3 for i in range(500))

    threads = [threading.Thread(target=build, args=(target,)) for target in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in zip(*results, strict=True):
        assert len({id(dim) for dim in row}) == 1


def test_growth_is_bounded() -> None:
    with pytest.raises(DimError, match="bits"):
        functools.reduce(lambda constant, _: constant * constant, range(100), Dim.of(3))
    square = N + H + 1
    for _ in range(40):
        square *= square
    with pytest.raises(DimError, match="bits"):
        square.evaluate({"N": 2, "H": 3})
    nested = N
    for number in range(3000):
        nested = minimum(nested + H, number + 5000) // 2
    assert nested.evaluate({"N": 1, "H": 1}) == 1
    assert "..." in str(nested)
    assert len(str(nested)) < 2000
