"""Runs one kernel on arrays, without a model: for tests of kernel families."""

from __future__ import annotations

import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.codegen.compiler import Compiler
from engine.codegen.kernel import KernelSpec
from engine.codegen.store import CodeStore
from engine.codegen.target import available, select

ISAS = available()
"""Instruction sets that this machine can test."""


@cache
def compiler(isa: str) -> Compiler:
    folder = Path(tempfile.gettempdir()) / "packhorse-test-cache"
    return Compiler(select(isa), CodeStore(folder))


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def run_kernel(
    spec: KernelSpec,
    isa: str,
    items: int,
    *,
    scratch: int = 0,
    pieces: int = 1,
    fill: int = 0,
    **arguments: np.ndarray[Any, Any] | tuple[np.ndarray[Any, Any], int] | int | float,
) -> int:
    """Call the kernel over ``[0, items)`` in `pieces` ranges; returns the first bad status.

    Every byte of scratch is `fill` before.

    A tensor argument is an array, or (array, offset in bytes) of where its first element lies.
    """
    words = np.zeros(spec.layout.words, np.int64)
    bases: list[int] = []
    for name, field in spec.layout.fields.items():
        value = arguments[name]
        if field.kind == "tensor":
            array, offset = value if isinstance(value, tuple) else (value, 0)
            words[field.word] = len(bases)
            words[field.word + 1] = offset
            bases.append(address(array))
        elif field.kind == "int":
            words[field.word] = int(value)
        else:
            words[field.word] = struct.unpack("q", struct.pack("d", float(value)))[0]
    table = np.array(bases, np.int64)
    memory = np.full(scratch + 128, fill, np.uint8)
    start = -(-address(memory) // 64) * 64
    context = np.array([address(table), start, 0, 1], np.int64)
    function = compiler(isa).call(spec)
    for piece in range(pieces):
        begin, end = items * piece // pieces, items * (piece + 1) // pieces
        status = function(address(words), address(context), begin, end)
        if status:
            return status
    return 0
