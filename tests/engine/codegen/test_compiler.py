"""Linking kernels into a process whose address space is all but full."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ctypes, pathlib, sys
from engine.codegen.compiler import Compiler
from engine.codegen.emit import emit
from engine.codegen.store import CodeStore
from engine.codegen.target import select
from engine.kernels import dot

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
compiler = Compiler(select(None), CodeStore(pathlib.Path(sys.argv[1])))
spec = dot.spec(2, [], None)
code = emit(spec, compiler.target)
reserve = lambda size: libc.mmap(None, size, 0, 0x4022, -1, 0)  # private, anonymous, no reserve
wall = reserve(8 << 30)
for size in (1 << 30, 64 << 20, 1 << 20, 64 << 10, 4096):
    while (found := reserve(size)) > wall:
        last = found
    libc.munmap(found, size)
libc.munmap(last, 4096)
compiler._link(spec, code)
print("linked")
"""


def test_sections_stay_together_where_only_single_pages_are_near(tmp_path: object) -> None:
    """Code and constants refer to each other by 32-bit distances: 8 GiB lie between the holes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "linked\n", done.stderr[-2000:]
