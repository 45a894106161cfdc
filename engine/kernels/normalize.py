"""Normalisation of rows by their own statistics: the kernel family ``normalize``.

A row is `parts` stretches of `length` contiguous elements, `part_stride` apart (without the option
``parts``: one stretch). A work item is one row; row `i` begins at element
``i // groups * outer_stride + i % groups * group_stride``. The variance takes two passes over the
row, which is in L1 or L2 by then: subtracting the mean first loses nothing to cancellation.

``norm`` is the divisor: ``variance`` and ``square`` divide by the root of the mean square plus
epsilon, ``deviation`` adds epsilon to the root; ``l1`` and ``l2`` divide by the sum of magnitudes
and the root of the sum of squares, and leave rows of zeros alone. ``variance`` and ``deviation``
subtract the mean.

Scale and shift: ``element`` holds one per element of the row, ``part`` one per part, found at
``i % groups * scale_group + part * scale_part``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

NORMS: Final = ("variance", "deviation", "square", "l1", "l2")

_VECTORS: Final = 4


def _layout(options: Options) -> Layout:
    tensors, ints = ["x", "y"], ["length"]
    if options["affine"] != "none":
        tensors.append("scale")
        if options["bias"]:
            tensors.append("bias")
    if options["statistics"]:
        tensors.extend(("mean", "inverse"))
    if options["parts"]:
        ints.extend(("parts", "part_stride", "groups", "group_stride", "outer_stride"))
        if options["affine"] == "part":
            ints.extend(("scale_group", "scale_part"))
    return Layout.of(" ".join(tensors), " ".join(ints), "epsilon")


class _Normalize:
    """Generator of one normalisation kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = KernelBuilder(symbol, target, _layout(options))
        self.lanes = Lanes(k, options["dtype"])
        self.norm: str = options["norm"]
        self.affine: str = options["affine"]
        self.biased: bool = options["bias"] and self.affine != "none"
        self.statistics: bool = options["statistics"]
        self.parted: bool = options["parts"]
        self.centred = self.norm in ("variance", "deviation")
        names = k.layout.fields
        self.pointers = {n: k.tensor(n) for n, f in names.items() if f.kind == "tensor"}
        self.n = {n: k.int(n) for n, f in names.items() if f.kind == "int"}
        self.epsilon = k.float("epsilon", self.lanes.scalar)
        self.length = self.n["length"]

    def build(self) -> str:
        """IR text of the kernel."""
        k, lanes, n = self.k, self.lanes, self.n
        size = self.length * n["parts"] if self.parted else self.length
        share = 1.0 / k.convert(size, lanes.scalar)
        with k.loop(k.begin, k.end) as item:
            group = item
            if self.parted:
                group = item % n["groups"]
                first = item // n["groups"] * n["outer_stride"] + group * n["group_stride"]
            else:
                first = item * self.length
            source = self.pointers["x"] + first * lanes.itemsize
            mean: Val | None = None
            if self.centred:
                mean = lanes.splat(self.total(source, lambda value: value) * share)
            divisor = self.divisor(source, mean, share)
            inverse = 1.0 / divisor
            if self.norm in ("l1", "l2"):
                inverse = k.select(divisor.equals(0.0), 0.0, inverse)
            if self.statistics:
                if mean is not None:
                    average = Val(k, k.b.extract_element(mean.v, k.const(0).v))
                else:
                    average = k.const(0, lanes.scalar)
                k.store(average, self.pointers["mean"] + item * lanes.itemsize)
                k.store(inverse, self.pointers["inverse"] + item * lanes.itemsize)
            self.write(source, self.pointers["y"] + first * lanes.itemsize, group, mean, inverse)
        k.ret()
        return str(k.module)

    def total(self, source: Val, term: Callable[[Val], Val]) -> Val:
        """Sum of ``term`` over a row."""
        k, lanes = self.k, self.lanes

        def stretch(pointer: Val) -> Val:
            return lanes.accumulate(
                self.length,
                _VECTORS,
                lanes.fill(0),
                lambda sums, part, vector: sums + term(part.load(pointer, vector)),
                lambda a, b: a + b,
            )

        if not self.parted:
            return lanes.fold(stretch(source), lambda a, b: a + b)
        sums = k.variable(lanes.fill(0))
        with k.loop(0, self.n["parts"]) as part:
            sums.add(stretch(source + part * self.n["part_stride"] * lanes.itemsize))
        return lanes.fold(sums.get(), lambda a, b: a + b)

    def divisor(self, source: Val, mean: Val | None, share: Val) -> Val:
        """What the row is divided by."""
        k = self.k
        if self.norm == "l1":
            return self.total(source, lambda value: k.unary("fabs", value))

        def square(value: Val) -> Val:
            centred = value if mean is None else value - mean
            return centred * centred

        squares = self.total(source, square)
        if self.norm == "l2":
            return k.unary("sqrt", squares)
        if self.norm == "deviation":
            return k.unary("sqrt", squares * share) + self.epsilon
        return k.unary("sqrt", squares * share + self.epsilon)

    def write(self, source: Val, target: Val, group: Val, mean: Val | None, inverse: Val) -> None:
        """Third pass: the normalised row, scaled and shifted."""
        k, lanes, n = self.k, self.lanes, self.n
        if not self.parted:
            self.write_stretch(source, target, mean, lanes.splat(inverse), None)
            return
        with k.loop(0, n["parts"]) as part:
            shift = part * n["part_stride"] * lanes.itemsize
            factor, bias = inverse, None
            if self.affine == "part":
                place = (group * n["scale_group"] + part * n["scale_part"]) * lanes.itemsize
                factor = inverse * k.load(self.pointers["scale"] + place, lanes.scalar)
                if self.biased:
                    bias = lanes.splat(k.load(self.pointers["bias"] + place, lanes.scalar))
            self.write_stretch(source + shift, target + shift, mean, lanes.splat(factor), bias)

    def write_stretch(
        self, source: Val, target: Val, mean: Val | None, factor: Val, bias: Val | None
    ) -> None:
        """One stretch of the third pass; `bias` is that of a whole part."""
        k, lanes = self.k, self.lanes

        def body(part: Part) -> None:
            for vector in range(part.vectors):
                value = part.load(source, vector)
                if mean is not None:
                    value = value - mean
                if self.affine == "element":
                    value = value * factor
                    scale = part.load(self.pointers["scale"], vector)
                    if self.biased:
                        value = k.fma(value, scale, part.load(self.pointers["bias"], vector))
                    else:
                        value = value * scale
                else:
                    value = value * factor if bias is None else k.fma(value, factor, bias)
                part.store(value, target, vector)

        lanes.sweep(self.length, _VECTORS, body)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Normalize(symbol, target, options).build()


register(
    Family(
        "normalize",
        "layer, group, instance, root-mean-square and Lp normalisation of rows",
        _layout,
        _build,
    )
)
