"""In which type the products of a model multiply: the caller's choice, never the engine's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.errors import InputError

if TYPE_CHECKING:
    from engine.codegen.target import Target

KINDS: Final = ("fp32", "bf16")

ARITHMETIC: Final = "bf16"
WEIGHTS: Final = "bf16 weights"
"""What the attribute ``precision`` of a product says: both its factors are bf16 numbers, or its
weights alone."""

_VECTOR_BYTES: Final = 64
"""Of the target whose CPUs may multiply bf16 numbers."""


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

    def describe(self, products: int, whole: int, weights: int, native: bool) -> str:
        """What became of it in a model of so many products.

        In bf16 are `whole` of them, and of `weights` more the weights alone; `native` tells whether
        the CPU has bf16 arithmetic.
        """
        if not self.reduced:
            return self.kind
        if self.emulate:
            share = f"{whole} of {products} products"
            return f"bf16 in {share}, emulated: for judging accuracy, not for serving"
        if native:
            alone = f", weights alone in {weights} more" if weights else ""
            return f"bf16 in {whole} of {products} products{alone}"
        share = f"{weights} of {products} products"
        return f"bf16 weights in {share}, multiplied in fp32: this CPU has no bf16 arithmetic"


FP32: Final = Precision()
"""float32 throughout."""


def arithmetic(precision: Precision, target: Target) -> str:
    """Form of `engine.kernels.pairs` in which a target multiplies bf16 numbers on this machine.

    Empty where it does not.
    """
    if not precision.reduced:
        return ""
    # Large imports, which a process that is yet to be pinned does without.
    from engine.codegen.target import host_features
    from engine.kernels.pairs import FEATURES, INSTRUCTION, WRITTEN

    if target.vector_bytes == _VECTOR_BYTES and host_features() >= FEATURES:
        return INSTRUCTION
    return WRITTEN if precision.emulate else ""
