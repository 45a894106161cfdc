"""Memory that Python and the native runtime share: byte offsets and sizes.

Words are 8 bytes, little-endian. Whatever several threads write lies on a cache line of its own.
"""

from __future__ import annotations

from typing import Final

LINE: Final = 64
"""Bytes of a cache line, the unit that keeps threads from disturbing each other."""


class Op:
    """One operation of a program, as the walker reads it.

    `ITEMS` is what threads claim, `GRAIN` at a time; 1 stands for the whole `RANGE` of the kernel's
    items. `WAIT` is the number of operations, from the program's start, that must be done before.
    `GROUP` operations from this one on are claimed together and run one after the other.
    """

    FUNCTION: Final = 0
    PARAMETERS: Final = 8
    ITEMS: Final = 16
    GRAIN: Final = 24
    WAIT: Final = 32
    GROUP: Final = 40
    RANGE: Final = 48
    SIZE: Final = 64
    WORDS: Final = SIZE // 8


class Job:
    """One run of a program: what to run on what, and how far it is.

    `FINISHED` is a futex word: 0 running, 1 finished, 2 running with somebody asleep on it.
    """

    OPS: Final = 0
    COUNT: Final = 8
    PARAMETERS: Final = 16
    BASES: Final = 24
    COUNTERS: Final = 32
    NOTIFY: Final = 40
    STATUS: Final = LINE
    FINISHED: Final = 2 * LINE
    SEQUENCE: Final = 3 * LINE
    SLEEPERS: Final = 3 * LINE + 8
    SIZE: Final = 4 * LINE


class Gang:
    """A team of threads and its run queue."""

    HEAD: Final = 0
    SLEEPERS: Final = LINE
    LOCK: Final = 2 * LINE
    STOP: Final = 3 * LINE
    THREADS: Final = 3 * LINE + 8
    SPIN: Final = 3 * LINE + 16
    RING: Final = 4 * LINE
    SLOTS: Final = 512
    PASSED: Final = RING + 8 * SLOTS

    @staticmethod
    def size(threads: int) -> int:
        """Bytes of a gang of `threads` threads."""
        return Gang.PASSED + threads * LINE


class Member:
    """What one thread of a gang starts with; `TID` is written by the thread."""

    GANG: Final = 0
    INDEX: Final = 8
    SCRATCH: Final = 16
    TID: Final = 24
    SIZE: Final = LINE


def counter_bytes(operations: int, threads: int) -> int:
    """Bytes of a job's counters: per operation one claim line per thread and one line of done."""
    return operations * (threads + 1) * LINE
