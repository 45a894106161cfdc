"""Memory that Python and the native runtime share: byte offsets and sizes.

Words are 8 bytes, little-endian. Whatever several threads write lies on a cache line of its own.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

LINE: Final = 64
"""Bytes of a cache line, the unit that keeps threads from disturbing each other."""


class Op:
    """One operation of a program, as the walker reads it.

    `ITEMS` is what threads claim, `GRAIN` at a time; 1 stands for the whole `RANGE` of the kernel's
    items. `WAIT` is the number of operations, from the program's start, that must be done before.
    `GROUP` operations from this one on are claimed together and run one after the other. `TARGET`
    is 1 + the operation with which a jump goes on where its kernel says so, 0 for all that is no
    jump. A jump ends its group and waits for everything before it.
    """

    FUNCTION: Final = 0
    PARAMETERS: Final = 8
    ITEMS: Final = 16
    GRAIN: Final = 24
    WAIT: Final = 32
    GROUP: Final = 40
    RANGE: Final = 48
    TARGET: Final = 56
    SIZE: Final = 64
    WORDS: Final = SIZE // 8


class Program:
    """A program that is bound to sizes: where its operations are, how many, and its parameters.

    What binding makes has its operations at `BODY`, and the parameters behind them.
    """

    OPS: Final = 0
    COUNT: Final = 8
    PARAMETERS: Final = 16
    BODY: Final = LINE


class Job(Program):
    """One run of a program: what to run on what, and how far it is.

    `FINISHED` is a futex word: 0 running, 1 finished, 2 running with somebody asleep on it.
    `FRONTIER` holds the number of jumps so far (the epoch), times ``2**32``, and the operation with
    which the last one went on. Counters of operations hold the epoch that they count in, times
    ``2**POSITION_BITS``, and how far it is: a thread that is late finds them in a later epoch.
    """

    BASES: Final = 24
    COUNTERS: Final = 32
    NOTIFY: Final = 40
    STATUS: Final = LINE
    FINISHED: Final = 2 * LINE
    SEQUENCE: Final = 3 * LINE
    SLEEPERS: Final = 3 * LINE + 8
    FRONTIER: Final = 4 * LINE
    SIZE: Final = 5 * LINE


POSITION_BITS: Final = 34
"""Bits of a counter that hold a number of work items; those above hold the epoch."""

LAST_EPOCH: Final = 1 << 28
"""Most jumps of one run: minutes of the smallest loop there is."""


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


class Spare:
    """What a program on its caller's thread runs on; `BASES`, the arena first, reach to its end."""

    SCRATCH: Final = 0
    FRONTIER: Final = 8
    BASES: Final = 16


class DimOperation(IntEnum):
    """What an instruction of `engine.plan.dim_code` computes from registers a, b and c."""

    MULTIPLY_ADD = 0
    DIVIDE = 1
    MINIMUM = 2
    MAXIMUM = 3
    BROADCAST = 4
    SCALED_FLOOR = 5
    SELECT_STRIDE = 6


INSTRUCTION_WORDS: Final = 4


class BindStatus(IntEnum):
    """What binding returns: a dim may have no value in 64 bits, a length may be negative."""

    BOUND = 0
    NO_VALUE = 1
    NEGATIVE = 2


class BindResult(IntEnum):
    """Words behind the values: bytes of the arena, predicted nanoseconds on one thread, and the
    number of operations that several threads may share."""

    ARENA = 0
    ESTIMATE = 1
    PARALLEL = 2


class Bind:
    """What binding a program reads and writes; see `engine.kernels.bind`.

    Addresses of int64 arrays, and counts. `RESULTS` numbers the registers of all expressions; their
    values go to `VALUES`, in which the words to fill come first, then items, costs, scratch and
    repetitions of each call, then sizes of the arena's buffers. `TARGETS` holds where jumps lead,
    as `Op.TARGET`, `BREAKS` is 1 for each call that follows a jump or is the target of one.
    `TEMPLATE` is what the parameters are before words are filled in. `ORDER` is kept between
    bindings. The buffers that live together with buffer i are the `RIVALS` between entries i and
    i + 1 of `RIVAL_ROWS`.
    """

    CODE: Final = 0
    INSTRUCTIONS: Final = 8
    REGISTERS: Final = 16
    SYMBOLS: Final = 24
    RESULTS: Final = 32
    RESULT_COUNT: Final = 40
    VALUES: Final = 48
    DYNAMIC_AT: Final = 56
    DYNAMIC_COUNT: Final = 64
    CALLS: Final = 72
    FUNCTIONS: Final = 80
    STARTS: Final = 88
    NEEDS: Final = 96
    WAITS: Final = 104
    BUFFERS: Final = 112
    FIRST: Final = 120
    LAST: Final = 128
    RANK: Final = 136
    ORDER: Final = 144
    OFFSETS: Final = 152
    ENDS: Final = 160
    RIVAL_ROWS: Final = 168
    RIVALS: Final = 176
    BUSY: Final = 184
    ARENA_AT: Final = 192
    ARENA_OF: Final = 200
    ARENA_COUNT: Final = 208
    TARGETS: Final = 216
    BREAKS: Final = 224
    THREADS: Final = 232
    TEMPLATE: Final = 240
    TEMPLATE_WORDS: Final = 248
    SIZE: Final = 256


def counter_bytes(operations: int, threads: int) -> int:
    """Bytes of a job's counters: per operation one claim line per thread and one line of done."""
    return operations * (threads + 1) * LINE
