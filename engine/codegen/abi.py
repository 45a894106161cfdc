"""What a kernel is called with, and what the program walker reads.

Every kernel is ``status = kernel(words, context, begin, end)``. `words` is the operation's
parameter block: 8-byte words, laid out by a `Layout`. `context` is the executing thread's
`Context`. ``[begin, end)`` is a range of work items. Status 0 is success; a jump that goes on
elsewhere returns `JUMP`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

Kind = Literal["tensor", "int", "float"]

ABI_VERSION: Final = 1
"""Part of every code key; raise it with any change to this file's layouts."""

WORD: Final = 8
"""Bytes of one parameter word."""


class Context:
    """Byte offsets of the per-thread context: base pointers, scratch, thread, threads."""

    BASES: Final = 0
    SCRATCH: Final = 8
    THREAD: Final = 16
    THREADS: Final = 24
    SIZE: Final = 32


class Status(IntEnum):
    """What a kernel may return; the runtime turns it into a message that names the node."""

    OK = 0
    INDEX_OUT_OF_RANGE = 1
    DIVISION_BY_ZERO = 2
    TOO_MANY_JUMPS = 3


STATUS_TEXT: Final = {
    Status.INDEX_OUT_OF_RANGE: "an index lies outside the axis that it selects from",
    Status.DIVISION_BY_ZERO: "an integer was divided by zero",
    Status.TOO_MANY_JUMPS: "a loop does not end",
}

JUMP: Final = 0x80
"""What the kernel of a jump returns where the program does not go on with the next operation."""


@dataclass(frozen=True)
class Field:
    """One parameter: a tensor takes two words (base index, byte offset), others one."""

    name: str
    kind: Kind
    word: int


class Layout:
    """Ordered, typed fields of a kernel's parameter block."""

    def __init__(self, *fields: tuple[str, Kind]) -> None:
        self.fields: dict[str, Field] = {}
        word = 0
        for name, kind in fields:
            if name in self.fields:
                raise ValueError(f"field {name!r} stands twice in a parameter block")
            self.fields[name] = Field(name, kind, word)
            word += 2 if kind == "tensor" else 1
        self.words = word

    @classmethod
    def of(cls, tensors: str = "", ints: str = "", floats: str = "") -> Layout:
        """Layout from names separated by spaces, tensors first, then integers, then floats."""
        fields: list[tuple[str, Kind]] = [(n, "tensor") for n in tensors.split()]
        fields.extend((n, "int") for n in ints.split())
        fields.extend((n, "float") for n in floats.split())
        return cls(*fields)
