"""What a core can do at most: kernels that only multiply and add, or only read.

``fma`` runs `items` rounds of independent multiply-adds in registers, ``read`` reads `bytes` bytes
`items` times. Both store a result, so that nothing is left out.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, KernelBuilder
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target

ROUND: Final = 12
"""Vectors per round, as accumulators or as loads: enough to hide the latency of each."""


def _layout(options: Options) -> Layout:
    return Layout.of("x y", "bytes")


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _layout(options))
    x, y = k.tensor("x"), k.tensor("y")
    lanes = target.lanes()
    kind = k.vector(F32, lanes)
    # Sums that began equal would stay so, and the compiler would compute one of them.
    sums = [k.variable(k.const(i, kind)) for i in range(ROUND)]
    if options["kind"] == "fma":
        a, b = k.load(x, kind), k.load(x + lanes * 4, kind)
        with k.loop(k.begin, k.end):
            for total in sums:
                total.set(k.fma(total.get(), a, b))
    else:
        with k.loop(k.begin, k.end), k.loop(0, k.int("bytes"), ROUND * lanes * 4) as at:
            for i, total in enumerate(sums):
                total.set(total.get() + k.load(x + at + i * lanes * 4, kind))
    for i, total in enumerate(sums):
        k.store(total.get(), y + i * lanes * 4)
    k.ret()
    return str(k.module)


register(Family("probe", "arithmetic peak and read bandwidth of a core", _layout, _build))
