"""Jumps of a program, and rows at the number of the iteration: what If, Loop and Scan run on.

A jump's kernel returns `JUMP` where the program goes on at its target, else 0.

- ``choose(condition)`` jumps where the condition is false; ``skip()`` always.
- ``enter(counter, ...)`` begins a loop: it sets the counter to 0 and jumps, over the loop, where
  there is no iteration. ``repeat(counter, ...)`` counts one iteration and jumps, back to the
  first operation of the next, where there is one.
- ``store_row(x, y, counter)`` copies x to the row of y that the counter numbers.

Of the options of loops, `limit` says where the number of iterations stands (``size``: a parameter,
``tensor``: memory, None: nowhere), `condition` whether a boolean in memory may end the loop. Where
the parameter `active` is 0 the memory holds nothing, because sizes have decided against it.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import JUMP, Layout
from engine.codegen.builder import I8, I64, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.runs import copy_run

CHUNK_BYTES: Final = 1 << 14
"""Bytes of one work item of ``store_row``."""


def _holds(k: KernelBuilder, name: str) -> Val:
    """Whether the boolean tensor `name` is true."""
    return k.load(k.tensor(name), I8).differs(0)


def _choose_layout(options: Options) -> Layout:
    return Layout.of("condition", "active")


def _build_choose(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _choose_layout(options))
    with k.when(k.int("active").differs(0)):
        k.ret(k.select(_holds(k, "condition"), k.const(0), JUMP))
    k.ret()
    return str(k.module)


CHOOSE: Final = register(
    Family("choose", "jump where a condition is false", _choose_layout, _build_choose)
)


def _build_skip(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, Layout())
    k.ret(JUMP)
    return str(k.module)


SKIP: Final = register(Family("skip", "jump", lambda _: Layout(), _build_skip))


def _loop_layout(options: Options) -> Layout:
    tensors = ["counter"]
    tensors += ["trips"] if options["limit"] == "tensor" else []
    tensors += ["condition"] if options["condition"] else []
    numbers = ["active", *(["trips"] if options["limit"] == "size" else [])]
    return Layout.of(" ".join(tensors), " ".join(numbers))


def _goes_on(k: KernelBuilder, options: Options, iteration: Val) -> Val:
    """1 where there is an iteration of this number."""
    going = k.const(1)
    if options["limit"]:
        size = options["limit"] == "size"
        limit = k.int("trips") if size else k.load(k.tensor("trips"), I64, align=1)
        going = k.select(iteration < limit, going, 0)
    if options["condition"]:
        going = k.select(_holds(k, "condition"), going, 0)
    return going


def _build_enter(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _loop_layout(options))
    with k.when(k.int("active").equals(0)):
        k.ret(JUMP)
    zero = k.const(0)
    k.store(zero, k.tensor("counter"))
    k.ret(k.select(_goes_on(k, options, zero).differs(0), zero, JUMP))
    return str(k.module)


ENTER: Final = register(
    Family("enter", "beginning of a loop", _loop_layout, _build_enter),
)


def _build_repeat(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _loop_layout(options))
    counter = k.tensor("counter")
    iteration = k.load(counter, I64) + 1
    k.store(iteration, counter)
    k.ret(k.select(_goes_on(k, options, iteration).differs(0), k.const(JUMP), 0))
    return str(k.module)


REPEAT: Final = register(Family("repeat", "end of an iteration", _loop_layout, _build_repeat))


def _row_layout(options: Options) -> Layout:
    return Layout.of("x y counter", "row_bytes")


def _build_store_row(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _row_layout(options))
    x, y, size = k.tensor("x"), k.tensor("y"), k.int("row_bytes")
    row = y + k.load(k.tensor("counter"), I64) * size
    with k.loop(k.begin, k.end) as chunk:
        start = chunk * CHUNK_BYTES
        copy_run(k, row + start, x + start, k.minimum(size - start, CHUNK_BYTES))
    k.ret()
    return str(k.module)


STORE_ROW: Final = register(
    Family("store_row", "the row of an iteration", _row_layout, _build_store_row)
)
