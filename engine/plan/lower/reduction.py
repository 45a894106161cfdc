"""Lowering of reductions: axes merged to the patterns of `engine.kernels.reduce`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv
from engine.graph.ir import Node
from engine.kernels.reduce import strip_width
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, ZERO, Tensor, product

OPERATIONS: Final = {
    "sum": ("sum", "none"),
    "mean": ("sum", "mean"),
    "l1": ("abs", "none"),
    "l2": ("square", "sqrt"),
    "square": ("square", "none"),
    "logsum": ("sum", "log"),
    "logsumexp": ("exp", "log"),
    "max": ("max", "none"),
    "min": ("min", "none"),
    "product": ("product", "none"),
}
"""Step and finish of the kernel for each operation."""

_COMBINES: Final = {"max": "max", "min": "min", "product": "product"}
"""Step that combines partial results, where it is not the sum."""

_BLOCK: Final = 16384
"""Elements of a block of a split reduction: some 64 KiB, a few microseconds of one thread."""

_ENOUGH: Final = 64
"""Work items per image from which on a reduction needs no split to occupy the threads."""


@dataclass(frozen=True)
class Level:
    """Merged axes: `size` elements `stride` apart."""

    size: Dim
    stride: Dim
    reduced: bool


def levels_of(x: Tensor, axes: Sequence[int]) -> list[Level]:
    """Axes of `x`, outermost first, merged where they are alike and lie densely together."""
    merged: list[Level] = []
    for axis, (size, stride) in enumerate(zip(x.shape, x.strides, strict=True)):
        if size == ONE:
            continue
        level = Level(size, stride, axis in axes)
        if merged and merged[-1].reduced == level.reduced and merged[-1].stride == stride * size:
            level = Level(merged[-1].size * size, stride, level.reduced)
            merged.pop()
        merged.append(level)
    return merged


def emit_reduce(low: Lowering, op: str, x: Tensor, axes: Sequence[int], y: Tensor) -> None:
    """Emit the reduction `op` of `axes` of `x` into the contiguous `y`, whatever its shape."""
    levels = levels_of(x, axes)
    if levels and levels[-1].stride != ONE:
        x = low.contiguous(x)
        levels = levels_of(x, axes)
    step, finish = OPERATIONS[op]
    count = product([level.size for level in levels if level.reduced])
    kept = [level for level in levels if not level.reduced]
    reduced = [level for level in levels if level.reduced]
    if not levels or levels[-1].reduced:
        last = reduced.pop() if reduced else Level(ONE, ONE, True)
        plan = _Plan(low, "rows", last.size, kept, reduced)
        run, dense = last.size, product([level.size for level in kept])
    else:
        last = kept.pop()
        reduced = reduced or [Level(ONE, ZERO, True)]
        plan = _Plan(low, "columns", last.size, kept, reduced)
        run, dense = reduced[-1].size, product([level.size for level in kept])
    single = len(reduced) == (1 if plan.pattern == "columns" else 0)
    if step == "exp" or not single or not _worth_splitting(plan, run):
        plan.emit(x, y, step, finish, count)
        return
    block = _BLOCK
    if plan.pattern == "columns":
        assert last.size.is_constant
        block = max(64, _BLOCK // max(1, last.size.value))
    blocks = ceildiv(run, block)
    if plan.pattern == "rows":
        partial = low.temp(x.dtype, (dense, blocks), "partial")
        second = _Plan(low, "rows", blocks, [Level(dense, blocks, False)], [])
    else:
        partial = low.temp(x.dtype, (dense, blocks, last.size), "partial")
        pitch = blocks * last.size
        outer, middle = Level(dense, pitch, False), Level(blocks, last.size, True)
        second = _Plan(low, "columns", last.size, [outer], [middle])
    plan.emit(x, partial, step, "none", count, (block, blocks))
    second.emit(partial, y, _COMBINES.get(step, "sum"), finish, count)


@dataclass(frozen=True)
class _Plan:
    """One kernel call to be: pattern, innermost length, further axes."""

    low: Lowering
    pattern: str
    length: Dim
    kept: list[Level]
    reduced: list[Level]

    def emit(
        self,
        x: Tensor,
        y: Tensor,
        step: str,
        finish: str,
        count: Dim,
        split: tuple[int, Dim] | None = None,
    ) -> None:
        """Emit the call; `split` gives elements per block and number of blocks."""
        spec = KernelSpec.of(
            "reduce",
            step=step,
            finish=finish,
            dtype=str(x.dtype),
            pattern=self.pattern,
            kept=len(self.kept),
            reduced=len(self.reduced),
            split=split is not None,
        )
        words: dict[str, Dim | int] = {"length": self.length, "count": count}
        for kind, levels in (("kept", self.kept), ("reduced", self.reduced)):
            for number, level in enumerate(levels):
                words[f"{kind}{number}"] = level.size
                words[f"{kind}_stride{number}"] = level.stride
        items = product([level.size for level in self.kept])
        elements = product([level.size for level in self.reduced])
        if self.pattern == "rows":
            elements = elements * self.length
        else:
            width = strip_width(self.low.target, x.itemsize)
            items = items * ceildiv(self.length, width)
            elements = elements * width
        if split is not None:
            words["block"] = split[0]
            items = items * split[1]
            elements = Dim.of(_BLOCK)
        # Elements per nanosecond: two vectors from L2, an exponential takes some 6 ns per vector.
        lanes = self.low.target.lanes(x.itemsize)
        speed = max(1, lanes // 6 if step == "exp" else lanes * 2)
        self.low.call(spec, items=items, cost=elements // speed + 10, writes="y", x=x, y=y, **words)


def _worth_splitting(plan: _Plan, run: Dim) -> bool:
    """Whether one long run would keep a single thread busy while others have nothing to do.

    Decided by the shape of an image alone: constant factors of the kept axes count, a symbolic
    batch does not.
    """
    if plan.pattern == "columns":
        if not plan.length.is_constant:
            return False
        lanes = plan.low.target.lanes(4)
        parallel = plan.length.value // (8 * lanes)
        weight = max(1, min(plan.length.value, 8 * lanes))
    else:
        parallel, weight = 1, 1
    for level in plan.kept:
        if level.size.is_constant:
            parallel *= max(1, level.size.value)
    if parallel >= _ENOUGH:
        return False
    if run.is_constant:
        return run.value * weight > 2 * _BLOCK
    return any(len(monomial) > 1 for monomial, _ in run.terms)


_KERNELS: Final = {
    "ReduceSum": "sum",
    "ReduceMean": "mean",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceSumSquare": "square",
    "ReduceLogSum": "logsum",
    "ReduceLogSumExp": "logsumexp",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "product",
}
_REAL: Final = ("float32", "float64")
_NUMBERS: Final = (*_REAL, "int32", "int64")
_SMALL: Final = ("int8", "uint8", "bool")


def reduced_axes(node: Node) -> tuple[int, ...]:
    """Axes that a Reduce node reduces, counted from the front; NoKernel where they are unknown."""
    value = node.inputs[0]
    if value is None or value.shape is None or value.dtype is None:
        raise NoKernel("the rank of the input is not known")
    axes: list[int] | None = None
    given = node.input(1)
    if given is not None:
        if given.data is not None:
            axes = [int(a) for a in given.data.ravel()]
        elif given.dims is not None and all(d.is_constant for d in given.dims):
            axes = [d.value for d in given.dims]
        elif given.shape == (ZERO,):
            axes = []
        else:
            raise NoKernel("the input axes is not known before the run")
    elif node.attribute("axes") is not None:
        axes = [int(a) for a in node.attribute("axes")]
    if not axes:
        return () if node.attribute("noop_with_empty_axes", 0) else tuple(range(value.rank))
    return tuple(sorted({a % value.rank for a in axes}))


@lowers(*_KERNELS)
def lower_reduce(node: Node, low: Lowering) -> None:
    """Reduce*: `keepdims` only changes the output's shape, not what is written."""
    op = _KERNELS[node.op]
    axes = reduced_axes(node)
    dtype = str(node.inputs[0].dtype) if node.inputs[0] is not None else ""
    if dtype not in _NUMBERS and not (op in ("max", "min") and dtype in _SMALL):
        raise NoKernel(f"{node.op} of {dtype}")
    if op in ("logsum", "logsumexp") and dtype not in _REAL:
        raise NoKernel(f"{node.op} of {dtype}; logarithms are those of floats")
    x = low.read(node.inputs[0])
    if not axes and op in ("sum", "mean", "max", "min", "product"):
        low.alias(node.outputs[0], x)
        return
    emit_reduce(low, op, x, axes, low.write(node.outputs[0]))
