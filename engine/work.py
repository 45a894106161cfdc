"""Arithmetic of a kernel call, read off its parameters.

Two operations per multiply-add. Winograd is counted as the direct convolution it replaces, so its
rate may exceed the machine's peak. Families that are not listed do little arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from engine.codegen.kernel import KernelSpec

Numbers = Mapping[str, int]


def _dot(n: Numbers, items: int) -> int:
    batches = items // max(n["m_items"] * n["n_items"], 1)
    depth = ((n["k3"] - 1) * n["k1"] + n["k1_last"]) * n["k2"]
    return 2 * batches * n["m"] * n["n"] * depth


def _winograd(n: Numbers, items: int) -> int:
    images = n["tiles"] // max(n["tiles_h"] * n["tiles_w"], 1)
    return 2 * 9 * images * n["height"] * n["width"] * n["c"] * n["n"]


def _depthwise(n: Numbers, items: int) -> int:
    lines = items // max(n["blocks"], 1)
    return 2 * lines * n["width"] * n["c"] * n["kh"] * n["kw"]


def _attention(n: Numbers, items: int) -> int:
    rows = items // max(n["row_items"], 1) * n["group"] * n["length"]
    return 2 * rows * n["keys"] * (n["size"] + n["value_size"])


_COUNTS: Final[Mapping[str, Callable[[Numbers, int], int]]] = {
    "attention": _attention,
    "depthwise": _depthwise,
    "dot": _dot,
    "winograd": _winograd,
}


def operations(spec: KernelSpec, words: list[int], items: int) -> int:
    """Floating-point operations of a call with these parameter words; 0 where little or unknown."""
    count = _COUNTS.get(spec.family)
    if count is None or items == 0:
        return 0
    fields = spec.layout.fields
    return count({name: words[f.word] for name, f in fields.items() if f.kind == "int"}, items)
