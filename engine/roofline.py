"""The limits of one core, measured: multiply-adds per second, and bytes read per second."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.codegen.compiler import Compiler
from engine.codegen.kernel import KernelSpec
from engine.kernels.probe import ROUND
from engine.runtime.memory import address, words

_ENTRY: Final = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)
_NEAR: Final = 192 << 10
"""Bytes that lie in a second-level cache."""

_FAR: Final = 192 << 20
"""Bytes that lie in no cache."""


@dataclass(frozen=True)
class Roofline:
    """Operations per second, and bytes per second from the second-level cache and from memory."""

    flops: float
    cache_bytes: float
    memory_bytes: float

    def seconds(self, operations: int, traffic: int) -> float:
        """Least seconds of work: arithmetic and reading overlap, the slower one counts."""
        rate = self.cache_bytes if traffic <= _NEAR else self.memory_bytes
        return max(operations / self.flops, traffic / rate)


def measure(compiler: Compiler, rounds: int = 5) -> Roofline:
    """Measure the core that the calling thread runs on; takes half a second."""
    specs = {kind: KernelSpec.of("probe", kind=kind) for kind in ("fma", "read")}
    found = compiler.functions(specs.values())
    vector = ROUND * compiler.target.lanes()
    data = np.full(_FAR // 4, 0.5, np.float32)
    result = np.zeros(vector, np.float32)
    bases = np.array([address(data), address(result)], np.int64)
    context = np.array([address(bases), 0, 0, 1], np.int64)

    def best(kind: str, size: int, items: int) -> float:
        parameters = words(specs[kind].layout.words)
        fields = specs[kind].layout.fields
        parameters[fields["y"].word] = 1
        parameters[fields["bytes"].word] = size
        entry = _ENTRY(found[specs[kind]])
        least = float("inf")
        for _ in range(rounds):
            start = time.perf_counter()
            entry(address(parameters), address(context), 0, items)
            least = min(least, time.perf_counter() - start)
        return least

    # Long enough for the core to settle at the clock that it holds under vector arithmetic.
    operations = 1 << 24
    step = vector * 4
    near, far = _NEAR // step * step, _FAR // step * step
    return Roofline(
        2 * vector * operations / best("fma", 0, operations),
        64 * near / best("read", near, 64),
        far / best("read", far, 1),
    )
