"""Teams: threads that share the phases of a computation, with one meeting per phase.

A phase is cut into as many blocks as the team has members. A member takes its own block first, so
that the same thread reads the same weights in every phase, and then what nobody has begun. A
phase begins when all blocks of the one before are done. Nothing waits for a thread that has not
come: one that is descheduled, or never joins, holds up nobody unless it sits inside a block, and
one that comes late goes on with the phase that it finds.

The team's memory, zero at the beginning, holds a count of finished blocks over all phases, a futex
word, and per block the number of phases in which it was claimed; all of them only grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.codegen.builder import I32, I64, Val
from engine.kernels.atomics import Walker
from engine.runtime.layout import LINE

_DONE: Final = 0
_SEQUENCE: Final = LINE
_SLEEPERS: Final = LINE + 8
_CLAIMS: Final = 2 * LINE

_SPIN_CYCLES: Final = 200_000
"""Longest spin before a member sleeps: some 80 µs at 2.5 GHz, more than blocks of one phase differ
by unless a thread was descheduled."""


def team_bytes(members: int) -> int:
    """Bytes of a team's memory."""
    return _CLAIMS + members * LINE


def phases(
    k: Walker,
    shared: Val,
    members: Val,
    member: Val,
    count: Val,
    compute: Callable[[Val, Val], None],
) -> None:
    """Take part in `count` phases as number `member`; ``compute(block, phase)`` emits a block.

    A team of one touches no shared memory.
    """
    phase = k.variable(k.const(0))
    several = members > 1
    done = k.offset(shared, _DONE)
    with k.while_(lambda: phase.get() < count):
        now = phase.get()
        with k.loop(0, members) as turn:
            block = member + turn
            block = k.select(block >= members, block - members, block)
            mine = k.variable(k.const(1))
            with k.when(several):
                claim = k.offset(shared, block * LINE + _CLAIMS)
                mine.set(0)
                with k.when(k.read(claim, 0, "monotonic").equals(now)):
                    taken = k.replace_if(claim, now, now + 1)
                    mine.set(k.select(taken, k.const(1), 0))
            with k.when(mine.get().differs(0)):
                compute(block, now)
                with k.when(several):
                    before = k.fetch_add(done, k.const(1))
                    with k.when((before + 1).equals((now + 1) * members)):
                        _wake(k, shared)
        with k.branch(several) as (together, alone):
            with together:
                _await(k, shared, (now + 1) * members)
                phase.set(k.read(done, 0) // members)
            with alone:
                phase.set(now + 1)


def _wake(k: Walker, shared: Val) -> None:
    with k.when(k.read(shared, _SLEEPERS, "seq_cst") > 0):
        sequence = k.offset(shared, _SEQUENCE)
        k.fetch_add(sequence, k.const(1, I32))
        k.futex_wake(sequence)


def _await(k: Walker, shared: Val, blocks: Val) -> None:
    """Wait until `blocks` blocks are done: spin, then sleep."""
    sleepers, sequence = k.offset(shared, _SLEEPERS), k.offset(shared, _SEQUENCE)
    awake = k.variable(k.const(0), I64)

    def finished() -> Val:
        return k.read(shared, _DONE) >= blocks

    budget = k.const(_SPIN_CYCLES)
    with k.while_(lambda: awake.get().equals(0)), k.branch(finished()) as (ready, late):
        with ready:
            awake.set(1)
        with late, k.branch(k.spin(finished, budget)) as (came, sleep):
            with came:
                awake.set(1)
            with sleep:
                k.fetch_add(sleepers, k.const(1))
                seen = k.read(sequence, 0, "seq_cst", I32)
                with k.when(k.read(shared, _DONE, "seq_cst") < blocks):
                    k.futex_wait(sequence, seen)
                k.fetch_add(sleepers, k.const(-1))


__all__ = ["phases", "team_bytes"]
