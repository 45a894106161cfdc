"""In which type the products of a model multiply: the caller's choice, never the engine's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.errors import InputError

KINDS: Final = ("fp32", "bf16")

ARITHMETIC: Final = "bf16"
WEIGHTS: Final = "bf16 weights"
"""What the attribute ``precision`` of a product says: both its factors are bf16 numbers, or its
weights alone."""

_FEATURES: Final = frozenset({"avx512bf16", "amx-bf16"})
"""CPU features, under LLVM's names, that multiply bf16 numbers."""


@dataclass(frozen=True)
class Precision:
    """`kind` is ``fp32`` or ``bf16``; the rest narrows the latter down.

    Products (matrix products, convolutions, recurrent layers) count in the order in which
    ``packhorse explain`` lists them. Of these, `keep` names the ones that stay in float32, and only
    the first `first` are changed at all (None: every one), which lets a bisection find the product
    that costs accuracy.

    Where the CPU has no bf16 arithmetic, weights are rounded and everything else is float32. With
    `emulate` activations are rounded, too, and every product and sum is what bf16 arithmetic with
    float32 sums gives, at more than the time of float32: for judging accuracy, not for serving.
    Inputs and outputs are those of the model in either case.
    """

    kind: str = "fp32"
    keep: tuple[str, ...] = ()
    first: int | None = None
    emulate: bool = False

    @classmethod
    def of(
        cls,
        kind: str,
        keep: Sequence[str] = (),
        first: int | None = None,
        emulate: bool = False,
    ) -> Precision:
        """The checked choice. Raises InputError for an unknown kind, or details without bf16."""
        if kind not in KINDS:
            raise InputError(f"precision {kind!r} is not known; there are {', '.join(KINDS)}")
        if kind == "fp32" and (keep or first is not None or emulate):
            raise InputError("nodes are kept, counted or emulated in precision bf16 only")
        if first is not None and first < 0:
            raise InputError(f"the first {first} products: give 0 or more")
        return cls(kind, tuple(dict.fromkeys(keep)), first, emulate)

    @property
    def reduced(self) -> bool:
        """Whether anything is less than float32."""
        return self.kind != "fp32"

    def describe(self, products: int, changed: int) -> str:
        """What became of it in a model of so many products, of which so many changed."""
        if not self.reduced:
            return self.kind
        share = f"{changed} of {products} products"
        if self.emulate:
            return f"bf16 in {share}, emulated: for judging accuracy, not for serving"
        return f"bf16 weights in {share}, multiplied in fp32: {missing()}"


FP32: Final = Precision()
"""float32 throughout."""


def missing() -> str:
    """Why bf16 numbers are multiplied in float32 on this machine."""
    # A large import, which a process that is yet to be pinned does without.
    from engine.codegen.target import host_features

    if host_features() & _FEATURES:
        return "there are no kernels for this CPU's bf16 arithmetic yet"
    return "this CPU has no bf16 arithmetic"
