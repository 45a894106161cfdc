"""Binding natively: evaluate dims, fill parameter words, lay out the arena, fill operations.

One kernel for all programs, a built-in function of Python. Its arguments are two arrays, a block
that is laid out by `engine.runtime.layout.Bind` and memory for the bound program (`Program`, its
operations, its parameters), then the sizes of the symbols. Returns a `BindStatus`.

Buffers are placed greedily by size, best fit: largest first, each into the smallest gap among the
placed buffers whose lifetimes overlap its own (Pisarchyk and Lee, Efficient Memory Management for
Deep Neural Net Inference, arXiv 2001.03288).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import llvmlite.ir as ir

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I1, I32, I64, PTR, KernelBuilder, Operand, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.python_call import PythonCall
from engine.runtime.layout import (
    INSTRUCTION_WORDS,
    Bind,
    BindResult,
    BindStatus,
    DimOperation,
    Op,
    Program,
)

ALIGNMENT: Final = 64
"""Bytes; the arena's buffers start on cache lines."""

SLACK: Final = 64
"""Bytes between buffers, so that equal power-of-two sizes do not start in the same cache sets."""

CLAIM_NS: Final = 4_000
"""Estimated nanoseconds of work that one claim should hold, to make its atomic negligible."""

SERIAL_NS: Final = 6_000
"""Operations estimated below this stay on one thread: waking the others costs more."""

SHARES: Final = 4
"""Claims per thread that an operation is cut into at least, where it has so many items."""


class _Array:
    """Words of memory whose address stands in the block."""

    def __init__(self, k: KernelBuilder, base: Val) -> None:
        self.k = k
        self.base = base

    def __getitem__(self, index: Val) -> Val:
        return self.k.load(self.k.offset(self.base, index * 8), I64)

    def __setitem__(self, index: Val, value: Val) -> None:
        self.k.store(value, self.k.offset(self.base, index * 8))


class Binder(KernelBuilder):
    """The kernel language with arrays of words and sticky overflow."""

    def number(self, field: int) -> Val:
        """Word of the block."""
        return self.load(self.offset(self.words, field), I64)

    def array(self, field: int) -> _Array:
        """Array whose address stands in the block."""
        return _Array(self, self.load(self.offset(self.words, field), PTR))

    def result(self, place: BindResult, value: Val) -> None:
        """Store a result behind the values."""
        values = self.array(Bind.VALUES)
        values[self.number(Bind.RESULT_COUNT) + place] = value

    def checked(self, name: str, a: Val, b: Val, bad: Variable) -> Val:
        """Signed ``a <name> b``; sets `bad` where it does not fit."""
        kind = ir.LiteralStructType([I64, I1])
        pair = self.intrinsic(f"llvm.s{name}.with.overflow.i64", kind, [a, b])
        overflow = Val(self, self.b.extract_value(pair.v, 1))
        bad.set(bad.get() | Val(self, self.b.zext(overflow.v, I64)))
        return Val(self, self.b.extract_value(pair.v, 0))

    def flag(self, condition: Val, bad: Variable) -> None:
        """Set `bad` where the condition holds."""
        bad.set(bad.get() | Val(self, self.b.zext(condition.v, I64)))


def _divide(k: Binder, a: Val, b: Val, bad: Variable) -> Val:
    """Floor division; the divisors 0 and -1 (whose quotient may not fit) are left to Python."""
    k.flag(b.equals(0) | b.equals(-1), bad)
    divisor = k.select(b.equals(0) | b.equals(-1), k.const(1), b)
    quotient = a / divisor
    rest = a - quotient * divisor
    down = rest.differs(0) & ((rest ^ divisor) < 0)
    return k.select(down, quotient - 1, quotient)


def _broadcast(k: Binder, a: Val, b: Val, bad: Variable) -> Val:
    k.flag(a.differs(1) & b.differs(1) & a.differs(b), bad)
    return k.select(a.equals(1), b, a)


def _scaled_floor(k: Binder, a: Val, bits: Val) -> Val:
    scale = k.bitcast(k.convert(bits, I32), F32)
    exact = k.convert(a, F32) * scale
    whole = k.convert(exact, I64)
    return k.select(k.convert(whole, F32) > exact, whole - 1, whole)


def _evaluate(k: Binder) -> None:
    """Run the register code; return where a value does not exist or a length is negative."""
    code, registers = k.array(Bind.CODE), k.array(Bind.REGISTERS)
    first, bad = k.number(Bind.SYMBOLS), k.variable(k.const(0))
    rules: dict[DimOperation, Callable[[Val, Val, Val], Val]] = {
        DimOperation.DIVIDE: lambda a, b, c: _divide(k, a, b, bad),
        DimOperation.MINIMUM: lambda a, b, c: k.minimum(a, b),
        DimOperation.MAXIMUM: lambda a, b, c: k.maximum(a, b),
        DimOperation.BROADCAST: lambda a, b, c: _broadcast(k, a, b, bad),
        DimOperation.SCALED_FLOOR: lambda a, b, c: _scaled_floor(k, a, b),
        DimOperation.SELECT_STRIDE: lambda a, b, c: k.select(a.equals(1), k.const(0), b),
    }
    with k.loop(0, k.number(Bind.INSTRUCTIONS)) as i:
        at = i * INSTRUCTION_WORDS
        operation = code[at]
        a, b, c = (registers[code[at + word]] for word in (1, 2, 3))
        with k.branch(operation.equals(DimOperation.MULTIPLY_ADD)) as (then, otherwise):
            with then:
                product = k.checked("mul", a, b, bad)
                registers[first + i] = k.checked("add", product, c, bad)
            with otherwise:
                for kind, rule in rules.items():
                    with k.when(operation.equals(kind)):
                        registers[first + i] = rule(a, b, c)
    results, values = k.array(Bind.RESULTS), k.array(Bind.VALUES)
    dynamic, negative = k.number(Bind.DYNAMIC_COUNT), k.variable(k.const(0))
    with k.loop(0, k.number(Bind.RESULT_COUNT)) as i:
        value = registers[results[i]]
        values[i] = value
        k.flag((value < 0) & (i >= dynamic), negative)
    with k.when(bad.get().differs(0)):
        k.ret(BindStatus.NO_VALUE)
    with k.when(negative.get().differs(0)):
        k.ret(BindStatus.NEGATIVE)


def _sort(k: Binder, sizes: _Array) -> None:
    """Order buffers by falling size, then rank; the last binding's order is nearly right."""
    order, rank = k.array(Bind.ORDER), k.array(Bind.RANK)
    with k.loop(1, k.number(Bind.BUFFERS)) as i:
        chosen = order[i]
        size, own = sizes[chosen], rank[chosen]
        place, moving = k.variable(i), k.variable(k.const(1))
        with k.while_(partial(_differs, moving, 0)):
            before = order[place.get() - 1]
            same = sizes[before].equals(size)
            later = (sizes[before] < size) | (same & (rank[before] > own))
            with k.branch(later) as (then, otherwise):
                with then:
                    order[place.get()] = before
                    place.add(-1)
                    with k.when(place.get().equals(0)):
                        moving.set(0)
                with otherwise:
                    moving.set(0)
        order[place.get()] = chosen


def _place(k: Binder, sizes: _Array) -> None:
    """Offset of every buffer. Who lives together with whom is known beforehand, and few do."""
    order, offsets, ends = k.array(Bind.ORDER), k.array(Bind.OFFSETS), k.array(Bind.ENDS)
    rows, rivals, busy = k.array(Bind.RIVAL_ROWS), k.array(Bind.RIVALS), k.array(Bind.BUSY)
    count, total = k.number(Bind.BUFFERS), k.variable(k.const(0))
    with k.loop(0, count) as i:
        ends[i] = k.const(0)
    with k.loop(0, count) as i:
        buffer = order[i]
        need = ((sizes[buffer] + (ALIGNMENT - 1)) & -ALIGNMENT) + SLACK
        found = k.variable(k.const(0))
        with k.loop(rows[buffer], rows[buffer + 1]) as r:
            rival = rivals[r]
            # Only what has been placed has an end.
            with k.when(ends[rival].differs(0)):
                _insert(k, busy, offsets, found.get(), rival)
                found.add(1)
        cursor, best, best_gap = (k.variable(k.const(n)) for n in (0, -1, 0))
        with k.loop(0, found.get()) as b:
            gap = offsets[busy[b]] - cursor.get()
            fits = (gap >= need) & ((best.get() < 0) | (gap < best_gap.get()))
            best_gap.set(k.select(fits, gap, best_gap.get()))
            best.set(k.select(fits, cursor.get(), best.get()))
            cursor.set(k.maximum(cursor.get(), ends[busy[b]]))
        offset = k.select(best.get() >= 0, best.get(), cursor.get())
        offsets[buffer] = offset
        ends[buffer] = offset + need
        total.set(k.maximum(total.get(), offset + need))
    k.result(BindResult.ARENA, total.get())


def _differs(variable: Variable, value: Operand) -> Val:
    return variable.get().differs(value)


def _insert(k: Binder, busy: _Array, offsets: _Array, count: Val, buffer: Val) -> None:
    """Insert a buffer into the first `count` of `busy`, which are in the order of their offsets."""
    own = offsets[buffer]
    place, moving = k.variable(count), k.variable(count)
    with k.while_(partial(_differs, moving, 0)):
        before = busy[place.get() - 1]
        with k.branch(offsets[before] > own) as (then, otherwise):
            with then:
                busy[place.get()] = before
                place.add(-1)
                moving.set(place.get())
            with otherwise:
                moving.set(0)
    busy[place.get()] = buffer


def _wait_for_dead(k: Binder, sizes: _Array) -> None:
    """Let the first user of memory wait for the last user of what lay there before."""
    needs, waits, offsets = k.array(Bind.NEEDS), k.array(Bind.WAITS), k.array(Bind.OFFSETS)
    first, last, count = k.array(Bind.FIRST), k.array(Bind.LAST), k.number(Bind.BUFFERS)
    with k.loop(0, k.number(Bind.CALLS)) as i:
        waits[i] = needs[i]
    with k.loop(0, count) as buffer:
        born = first[buffer]
        # A call that waits for its predecessor waits for everything.
        with k.when(waits[born] < born):
            start = offsets[buffer]
            end = start + sizes[buffer]
            wait = k.variable(waits[born])
            with k.loop(0, count) as other:
                below, size = offsets[other], sizes[other]
                shared = (start < below + size) & (below < end) & (last[other] < born)
                later = k.maximum(wait.get(), last[other] + 1)
                wait.set(k.select(shared, later, wait.get()))
            waits[born] = wait.get()


def _is_small(items: Val, cost: Val) -> Val:
    return (items * cost < SERIAL_NS) | (items <= 1)


def _fill_operations(k: Binder, table: Val, items: _Array, costs: _Array, times: _Array) -> None:
    """Fill the operation table: grain by cost, neighbouring small operations grouped.

    A group neither begins before the target of a jump nor goes on behind a jump.
    """
    fields = (Bind.WAITS, Bind.FUNCTIONS, Bind.STARTS, Bind.TARGETS, Bind.BREAKS)
    waits, functions, starts, targets, breaks = (k.array(field) for field in fields)
    count = k.number(Bind.CALLS)
    estimate, parallel, leader = (k.variable(k.const(n)) for n in (0, 0, -1))
    with k.loop(0, count) as i:
        size, cost = items[i], costs[i]
        small = _is_small(size, cost)
        estimate.add(size * cost * times[i])
        with k.when(breaks[i].differs(0)):
            leader.set(-1)
        claim = k.maximum(k.const(CLAIM_NS) / k.maximum(cost, 1), 1)
        share = k.maximum(size / (k.number(Bind.THREADS) * SHARES), 1)
        row = k.offset(table, i * Op.SIZE)
        row_fields = {
            Op.FUNCTION: functions[i],
            Op.PARAMETERS: starts[i],
            Op.ITEMS: k.select(small, k.const(1), size),
            Op.GRAIN: k.select(small, k.const(1), k.minimum(claim, share)),
            Op.WAIT: waits[i],
            Op.GROUP: k.const(1),
            Op.RANGE: size,
            Op.TARGET: targets[i],
        }
        for field, value in row_fields.items():
            k.store(value, k.offset(row, field))
        with k.branch(small) as (then, otherwise):
            with then, k.branch(leader.get() >= 0) as (joins, leads):
                with joins:
                    head = k.offset(table, leader.get() * Op.SIZE)
                    known = k.load(k.offset(head, Op.WAIT), I64)
                    wait = k.maximum(known, k.minimum(waits[i], leader.get()))
                    k.store(wait, k.offset(head, Op.WAIT))
                    k.store(i - leader.get() + 1, k.offset(head, Op.GROUP))
                with leads:
                    leader.set(i)
            with otherwise:
                parallel.add(1)
                leader.set(-1)
    k.result(BindResult.ESTIMATE, estimate.get())
    k.result(BindResult.PARALLEL, parallel.get())


def _bind(k: Binder, memory: Val) -> None:
    """Return after everything was done."""
    calls = k.number(Bind.CALLS)
    table = k.offset(memory, Program.BODY)
    parameters = _Array(k, k.offset(table, calls * Op.SIZE))
    _evaluate(k)
    template = k.array(Bind.TEMPLATE)
    with k.loop(0, k.number(Bind.TEMPLATE_WORDS)) as i:
        parameters[i] = template[i]
    k.store(table, k.offset(memory, Program.OPS))
    k.store(calls, k.offset(memory, Program.COUNT))
    k.store(parameters.base, k.offset(memory, Program.PARAMETERS))
    values = k.array(Bind.VALUES)
    dynamic, at = k.number(Bind.DYNAMIC_COUNT), k.array(Bind.DYNAMIC_AT)
    with k.loop(0, dynamic) as i:
        parameters[at[i]] = values[i]
    items, costs, _, times, sizes = (
        _Array(k, k.offset(values.base, (dynamic + calls * part) * 8)) for part in range(5)
    )
    _sort(k, sizes)
    _place(k, sizes)
    words, buffers, offsets = (
        k.array(field) for field in (Bind.ARENA_AT, Bind.ARENA_OF, Bind.OFFSETS)
    )
    with k.loop(0, k.number(Bind.ARENA_COUNT)) as i:
        word = words[i]
        parameters[word] = parameters[word] + offsets[buffers[i]]
    _wait_for_dead(k, sizes)
    _fill_operations(k, table, items, costs, times)
    k.ret()


def _build(symbol: str, target: Target, options: Options) -> str:
    k = Binder(symbol, target, Layout())
    call = PythonCall(k, options["header"])
    bind = k.local_function(f"{symbol}_bind", [PTR, PTR])
    with k.within(bind) as (k.words, memory):
        _bind(k, memory)
    k.words = call.address(0)
    call.integers(2, k.array(Bind.REGISTERS).base)
    call.ret(k.call(bind, [k.words, call.address(1)]))
    return str(k.module)


BIND: Final = register(
    Family("bind", "sizes of a request into a program", lambda _: Layout(), _build)
)
