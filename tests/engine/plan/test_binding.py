"""Binding: dims by register code, buffers in the arena, operations in groups."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import (
    Dim,
    DimError,
    broadcast,
    maximum,
    minimum,
    scaled_floor,
    select_stride,
    symbol,
)
from engine.plan.binding import BIND, Bound, Sealed, Step
from engine.plan.dim_code import encode
from engine.runtime.layout import Op
from tests.engine.harness import ISAS, compiler

ALIGNMENT = 64
KERNEL = KernelSpec.of("none")
ADDRESS = 4096
SYMBOLS = ("n", "h", "w")

Lifetimes = Sequence[tuple[int, int]]
Buffers = list[tuple[int, int, int]]
buffers = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 20)), max_size=30
)


@cache
def bind_address(isa: str) -> int:
    return compiler(isa).functions([BIND])[BIND]


def words(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, np.int64)


def program(
    calls: Sequence[tuple[Dim, Dim]],
    needs: Sequence[int],
    sizes: Sequence[Dim] = (),
    lifetimes: Lifetimes = (),
    dynamic: Sequence[Dim] = (),
    shape: Sequence[Dim] = (),
    isa: str = ISAS[-1],
    targets: Sequence[int] | None = None,
) -> Sealed:
    """Calls of (items, cost) whose words are the dynamic ones, then one offset per buffer."""
    exprs = [*dynamic, *(i for i, _ in calls), *(c for _, c in calls)]
    exprs += [*[Dim.of(0)] * len(calls), *[Dim.of(1)] * len(calls)]
    sealed = Sealed(
        steps=tuple(Step(f"n{i}", "Op", KERNEL) for i in range(len(calls))),
        inputs=(),
        outputs=(),
        template=np.zeros(len(dynamic) + len(sizes), np.int64),
        starts=words(range(len(calls))),
        code=encode([*exprs, *sizes, *shape], SYMBOLS),
        dynamic_at=words(range(len(dynamic))),
        arena_at=words(range(len(dynamic), len(dynamic) + len(sizes))),
        arena_of=words(range(len(sizes))),
        lifetimes=words(lifetimes).reshape(-1, 2),
        needs=words(needs),
        targets=words([0] * len(calls) if targets is None else targets),
        ranks=(len(shape),),
    )
    sealed.link({BIND: bind_address(isa), KERNEL: ADDRESS})
    return sealed


def bind(sealed: Sealed, n: int = 1, h: int = 1, w: int = 1, threads: int = 2) -> Bound:
    return sealed.bind({"n": n, "h": h, "w": w}, threads)


def place(sizes: Sequence[int], lifetimes: Lifetimes) -> tuple[list[int], int]:
    """Offsets and size of an arena, as bound on every instruction set."""
    calls = 1 + max((last for _, last in lifetimes), default=0)
    results = []
    for isa in ISAS:
        sealed = program(
            [(Dim.of(1), Dim.of(1))] * calls,
            range(calls),
            [Dim.of(size) for size in sizes],
            lifetimes,
            isa=isa,
        )
        bound = bind(sealed)
        results.append((bound.parameters.tolist(), bound.arena))
    assert all(result == results[0] for result in results)
    return results[0]


def greedy(sizes: Sequence[int], lifetimes: Lifetimes) -> tuple[list[int], int]:
    """The same by lists, one buffer after the other."""
    offsets = [0] * len(sizes)
    placed: list[tuple[int, int, int, int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], lifetimes[i])):
        need = -(-sizes[i] // ALIGNMENT) * ALIGNMENT + 64
        first, last = lifetimes[i]
        gaps = []
        cursor = 0
        for start, end, a, b in sorted(placed):
            if a <= last and first <= b:
                if start - cursor >= need:
                    gaps.append((start - cursor, cursor))
                cursor = max(cursor, end)
        offsets[i] = min(gaps, key=lambda gap: gap[0])[1] if gaps else cursor
        placed.append((offsets[i], offsets[i] + need, first, last))
    return offsets, max((end for _, end, _, _ in placed), default=0)


@given(buffers)
@settings(deadline=None)
def test_buffers_that_live_together_do_not_overlap(drawn: Buffers) -> None:
    sizes = [size for size, _, _ in drawn]
    lifetimes = [(min(a, b), max(a, b)) for _, a, b in drawn]
    offsets, total = place(sizes, lifetimes)
    assert (offsets, total) == greedy(sizes, lifetimes)
    for i, (first, last) in enumerate(lifetimes):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + sizes[i] <= total
        for j in range(i):
            if lifetimes[j][0] <= last and first <= lifetimes[j][1]:
                apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
                assert apart, (i, j)


def test_a_dead_buffer_gives_its_place_away() -> None:
    offsets, total = place([1000, 1000, 1000], [(0, 1), (1, 2), (2, 3)])
    assert offsets[0] == offsets[2]
    assert total < 3 * 1000


def test_the_smallest_gap_that_fits_is_taken() -> None:
    # Two gaps are left between long-lived buffers; the small one suits.
    sizes = [10_000, 9_000, 8_000, 7_000, 500]
    lifetimes = [(0, 9), (0, 1), (0, 9), (0, 9), (2, 9)]
    offsets, total = place(sizes, lifetimes)
    assert offsets[4] == offsets[1]
    assert total == place(sizes[:4], lifetimes[:4])[1]


def test_placement_does_not_depend_on_earlier_bindings() -> None:
    sizes = [symbol("n") * 100, symbol("h") * 100, symbol("w") * 100]
    lifetimes = [(0, 1), (1, 2), (1, 3)]
    calls = [(Dim.of(1), Dim.of(1))] * 4
    used = program(calls, range(4), sizes, lifetimes)
    for n, h, w in [(1, 2, 3), (3, 2, 1), (2, 2, 2), (1, 3, 2)]:
        fresh = program(calls, range(4), sizes, lifetimes)
        assert bind(used, n, h, w).parameters.tolist() == bind(fresh, n, h, w).parameters.tolist()
        assert used.offsets() == fresh.offsets()


dims = st.recursive(
    st.one_of(st.sampled_from([symbol(name) for name in SYMBOLS]), st.integers(-9, 9).map(Dim.of)),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a // b, inner, st.integers(1, 7)),
        st.builds(lambda a, b: a // b, inner, inner.filter(lambda dim: dim != 0)),
        st.builds(minimum, inner, inner),
        st.builds(maximum, inner, inner),
        st.builds(select_stride, inner, inner),
        st.builds(scaled_floor, inner, st.sampled_from([0.5, 0.7, 1.5, 2.0, 1 / 3])),
    ),
    max_leaves=12,
)
sizes_of = st.integers(0, 1 << 20)


@pytest.mark.parametrize("isa", ISAS)
@given(exprs=st.lists(dims, min_size=1, max_size=6), n=sizes_of, h=sizes_of, w=sizes_of)
@settings(deadline=None, max_examples=60)
def test_dims_have_their_values(isa: str, exprs: list[Dim], n: int, h: int, w: int) -> None:
    sizes = {"n": n, "h": h, "w": w}
    try:
        expected = [expr.evaluate(sizes) for expr in exprs]
    except DimError:
        with pytest.raises(DimError):
            bind(program([], [], dynamic=exprs, isa=isa), n, h, w)
        return
    # Values that need more are refused; so are intermediate ones, which only the code has.
    assume(all(abs(value) < 1 << 62 for value in expected))
    sealed = program([], [], dynamic=exprs, isa=isa)
    assert sealed.code.evaluate([n, h, w]) == expected
    try:
        bound = bind(sealed, n, h, w)
    except DimError:
        return
    assert bound.parameters.tolist() == expected


def test_sizes_that_do_not_fit_are_refused() -> None:
    n, h = symbol("n"), symbol("h")
    with pytest.raises(DimError, match="do not broadcast"):
        bind(program([], [], dynamic=[broadcast(n, h)]), 2, 3)
    assert bind(program([], [], dynamic=[broadcast(n, h)]), 1, 3).parameters.tolist() == [3]
    with pytest.raises(DimError, match="by zero"):
        bind(program([], [], dynamic=[n // h]), 2, 0)
    assert bind(program([], [], dynamic=[-n // h]), 7, 2).parameters.tolist() == [-4]
    with pytest.raises(DimError, match="63 bits"):
        bind(program([], [], dynamic=[n * h]), 1 << 40, 1 << 40)
    with pytest.raises(DimError, match="64 bits"):
        bind(program([], [], dynamic=[n]), 1 << 70)
    with pytest.raises(DimError, match="no value for the symbol 'q'"):
        program([], [], dynamic=[symbol("q")])


def test_negative_lengths_are_refused() -> None:
    n = symbol("n")
    for sealed in (program([(n - 5, Dim.of(1))], [0]), program([], [], shape=[n - 5])):
        assert bind(sealed, 5).count == len(sealed.steps)
        with pytest.raises(DimError, match="negative length"):
            bind(sealed, 4)


def operations(bound: Bound) -> list[dict[str, int]]:
    table = bound.operations.reshape(bound.count, Op.WORDS)
    fields = ("FUNCTION", "PARAMETERS", "ITEMS", "GRAIN", "WAIT", "GROUP", "RANGE")
    return [{f: int(row[getattr(Op, f) // 8]) for f in fields} for row in table]


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 100_000)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.data(),
)
@settings(deadline=None)
def test_operations_are_grouped_and_wait(
    calls: list[tuple[int, int]], threads: int, data: st.DataObject
) -> None:
    needs = [data.draw(st.integers(0, i)) for i in range(len(calls))]
    sealed = program([(Dim.of(i), Dim.of(c)) for i, c in calls], needs)
    bound = bind(sealed, threads=threads)
    table = operations(bound)
    assert bound.estimate == sum(items * cost for items, cost in calls)
    at = 0
    while at < len(calls):
        group = table[at]["GROUP"]
        members = range(at, at + group)
        if group > 1:
            assert all(table[i]["ITEMS"] == 1 for i in members)
        # A group runs in order on one thread, so its members need not wait for each other.
        assert table[at]["WAIT"] == max([needs[at], *(min(needs[i], at) for i in members)])
        at += group
    assert at == len(calls)
    for row, (items, cost) in zip(table, calls, strict=True):
        assert row["FUNCTION"] == ADDRESS
        assert row["RANGE"] == items
        assert 1 <= row["GRAIN"] <= max(1, row["ITEMS"])
        assert row["ITEMS"] == (1 if items <= 1 or items * cost < 6000 else items)
        if row["ITEMS"] > 1:
            assert row["GRAIN"] <= max(1, items // (4 * threads))
            assert row["GRAIN"] * cost <= max(cost, 4000)


def test_memory_is_reused_after_its_last_reader() -> None:
    big = Dim.of(100_000)
    # Two independent chains: call 2 may start before call 1 ends, unless it takes its memory.
    sealed = program([(big, big)] * 3, [0, 0, 0], [big, big], [(0, 1), (2, 2)])
    assert [row["WAIT"] for row in operations(bind(sealed))] == [0, 0, 2]
    apart = program([(big, big)] * 3, [0, 0, 0], [big, big], [(0, 2), (2, 2)])
    assert [row["WAIT"] for row in operations(bind(apart))] == [0, 0, 0]


def test_shapes_of_outputs() -> None:
    n, h = symbol("n"), symbol("h")
    sealed = program([], [], [n], [(0, 0)], [h], shape=[n + 1, h * 2, Dim.of(7)])
    assert bind(sealed, 4, 5).outputs == ((5, 10, 7),)


def test_a_sealed_program_can_be_stored() -> None:
    n = symbol("n")
    sealed = program([(n, Dim.of(3))], [0], [n * 4], [(0, 0)], [n * n], shape=[n])
    stored = pickle.loads(pickle.dumps(sealed))
    stored.link({BIND: bind_address(ISAS[-1]), KERNEL: ADDRESS})
    first, second = bind(sealed, 5), bind(stored, 5)
    assert first.parameters.tolist() == second.parameters.tolist()
    assert first.operations.tolist() == second.operations.tolist()
    assert replace(first, memory=second.memory) == second


def test_groups_end_with_jumps_and_begin_with_their_targets() -> None:
    small = (Dim.of(1), Dim.of(1))
    # Call 1 jumps over 2 and 3, call 5 leads back to 4.
    sealed = program([small] * 8, range(8), targets=[0, 5, 0, 0, 0, 5, 0, 0])
    bound = bind(sealed)
    table = bound.operations.reshape(bound.count, Op.WORDS)
    groups, at = [], 0
    while at < bound.count:
        groups.append(int(table[at, Op.GROUP // 8]))
        at += groups[-1]
    assert groups == [2, 2, 2, 2]
    assert table[:, Op.TARGET // 8].tolist() == [0, 5, 0, 0, 0, 5, 0, 0]
    # Nothing in it is worth sharing, however long it takes.
    assert bound.inline
    assert bind(program([small] * 3 + [(Dim.of(9_000), Dim.of(9))], range(4))).inline is False
