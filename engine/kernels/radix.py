"""Sorting by digits: least significant first, stable (D. E. Knuth, The Art of Computer Programming,
volume 3, section 5.2.5).

A record begins with a key of 64 bits that is compared as unsigned; one of 16 bytes carries a
number behind it. Digits in which all keys agree take no pass.
"""

from __future__ import annotations

from typing import Any, Final

from engine.codegen.builder import F32, F64, I32, I64, PTR, KernelBuilder, Val

DIGIT: Final = 11
"""Bits of a digit: 2048 counters stay in the first-level cache."""

COUNTERS: Final = 8 << DIGIT
"""Bytes of counters that sorting needs."""


def ordered_bits(k: KernelBuilder, value: Val, unsigned: bool = False) -> Val:
    """Bits of a number (of any width) that compare as unsigned where the numbers do.

    Zeros of both signs give the same bits.
    """
    kind: Any = value.type
    if kind in (F32, F64):
        bits = k.bitcast(value + 0.0, I32 if kind == F32 else I64)
        width = bits.type.width
        sign = k.const(-(1 << (width - 1)), bits.type)
        flips: Val = (bits >> (width - 1)) | sign
        return bits ^ flips
    return value if unsigned else value ^ k.const(-(1 << (kind.width - 1)), kind)


def sorter(k: KernelBuilder, record: int, first_bit: int, last_bit: int) -> Any:
    """Local function ``(records, spare, counters, count) -> where the sorted records are``.

    Records of 8 or 16 bytes are ordered by the bits [first_bit, last_bit) of their keys; `records`
    and `spare` hold `count` each, and the result is in one of them.
    """
    function = k.local_function("sort", [PTR, PTR, PTR, I64], PTR)
    with k.within(function) as (records, spare, counters, count):
        source, target = k.variable(records), k.variable(spare)

        def digit(place: Val, shift: Val) -> Val:
            key = k.load(place, I64)
            return Val(k, k.b.lshr(key.v, shift.v)) & ((1 << DIGIT) - 1)

        with k.when(count > 1), k.loop(first_bit, last_bit, DIGIT) as shift:
            with k.loop(0, 1 << DIGIT) as i:
                k.store(k.const(0), counters + i * 8)
            with k.loop(0, count) as i:
                counter = counters + digit(source.get() + i * record, shift) * 8
                k.store(k.load(counter, I64) + 1, counter)
            alike = k.load(counters + digit(source.get(), shift) * 8, I64)
            with k.when(alike < count):
                start = k.variable(0, I64)
                with k.loop(0, 1 << DIGIT) as i:
                    here = k.load(counters + i * 8, I64)
                    k.store(start.get(), counters + i * 8)
                    start.add(here)
                with k.loop(0, count) as i:
                    place = source.get() + i * record
                    counter = counters + digit(place, shift) * 8
                    at = k.load(counter, I64)
                    k.store(at + 1, counter)
                    to = target.get() + at * record
                    for word in range(0, record, 8):
                        k.store(k.load(place + word, I64), to + word)
                sorted_ = target.get()
                target.set(source.get())
                source.set(sorted_)
        k.ret(source.get())
    return function
