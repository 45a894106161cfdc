"""Lowering of DFT and STFT: lines of a tensor, transformed one by one.

Where the length is known at load, tables are weights; elsewhere every run begins with the call that
makes them. Transforms of short known lengths have become products before
(`engine.graph.passes.fourier`).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, minimum
from engine.graph.ir import Node, Value
from engine.kernels import fourier, fourier_tables
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import checked, constants, integers, shape_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import Tensor, product

_LONGEST = 1 << 22
"""Longest transform of a length known at load; tables and work memory of longer ones are large."""


@dataclass(frozen=True)
class _Lines:
    """Lines [outer, inner] of a tensor; distances in elements."""

    tensor: Tensor
    outer: Dim
    inner: Dim
    outer_step: Dim
    inner_step: Dim
    step: Dim

    def words(self, prefix: str) -> dict[str, Dim]:
        """Parameters of the kernel, in bytes."""
        size = self.tensor.itemsize
        return {
            f"{prefix}_outer": self.outer_step * size,
            f"{prefix}_inner": self.inner_step * size,
            f"{prefix}_step": self.step * size,
        }


def _along(tensor: Tensor, axis: int) -> _Lines:
    """Lines along an axis of a contiguous tensor whose last axis holds the parts of a number."""
    parts = tensor.shape[-1]
    step = product(tensor.shape[axis + 1 :])
    inner = product(tensor.shape[axis + 1 : -1])
    outer = product(tensor.shape[:axis])
    return _Lines(tensor, outer, inner, step * tensor.shape[axis], parts, step)


def _parts(value: Value | None) -> int:
    """1 for real numbers, 2 for complex ones."""
    shape = shape_of(value)
    assert value is not None
    if str(value.dtype) not in fourier.DTYPES:
        raise NoKernel(f"Fourier transforms of {value.dtype}")
    if len(shape) < 2 or not shape[-1].is_constant or shape[-1].value not in (1, 2):
        raise NoKernel("whether its numbers are real or complex is not known")
    return shape[-1].value


def _number(value: Value, what: str) -> Dim:
    """An integer that is known before the run."""
    found = known_dims(value)
    if found is None or len(found) != 1:
        raise NoKernel(f"{what} {value.name} is known only at run time")
    return found[0]


def _transform(
    node: Node,
    low: Lowering,
    x: _Lines,
    y: _Lines,
    length: Dim,
    taken: Dim,
    bins: Dim,
    parts: int,
    window: Tensor | None = None,
) -> None:
    """Emit the calls."""
    dtype = str(x.tensor.dtype)
    if length.is_constant:
        if not 0 < length.value <= _LONGEST:
            raise NoKernel(f"a transform of length {length.value}")
        tables = low.constant(fourier_tables.tables(length.value, dtype), "fourier tables")
        plane = tables.shape[1]
    else:
        plane = fourier.plane_of_unknown(length)
        tables = low.temp(dtype, (Dim.of(fourier_tables.ROWS), plane), "fourier tables")
    work = low.temp(dtype, (Dim.of(4 * low.threads), plane), "fourier lines")
    if not length.is_constant:
        low.call(
            KernelSpec.of(fourier_tables.TABLES.name, dtype=dtype),
            items=1,
            cost=length * 4,
            writes="tables work",
            tables=tables,
            work=work,
            length=length,
            plane=plane,
        )
    options = {
        "dtype": dtype,
        "parts": parts,
        "inverse": bool(node.attribute("inverse", 0)),
        "halved": bool(node.attribute("onesided", 0)) and bool(node.attribute("inverse", 0)),
        "window": window is not None,
    }
    low.call(
        KernelSpec.of(fourier.FOURIER.name, **options),
        items=x.outer * x.inner,
        cost=length * 4,
        # No scratch is used; a negative size of it refuses the length 0 when a run is bound.
        scratch=length - 1,
        writes="y work",
        x=x.tensor,
        y=y.tensor,
        tables=tables,
        work=work,
        outer=x.outer,
        inner=x.inner,
        taken=taken,
        length=length,
        bins=bins,
        plane=plane,
        **x.words("x"),
        **y.words("y"),
        **({} if window is None else {"window": window}),
    )


@lowers("DFT")
def lower_transform(node: Node, low: Lowering) -> None:
    """Transforms along an axis."""
    checked(node)
    parts, rank = _parts(node.inputs[0]), len(shape_of(node.inputs[0]))
    if node.version < 20:
        axis = int(node.attribute("axis", 1))
    else:
        axes = integers(node, 2, "axis", [-2])
        assert axes is not None
        axis = constants(axes, "axis")[0]
    axis %= rank
    if axis == rank - 1:
        raise NoKernel("a transform along the parts of complex numbers")
    own = shape_of(node.inputs[0])[axis]
    halved = bool(node.attribute("onesided", 0)) and bool(node.attribute("inverse", 0))
    given = node.input(1)
    length = _number(given, "length") if given is not None else (own - 1) * 2 if halved else own
    source = low.read_dense(node.inputs[0])
    result = low.write(node.outputs[0])
    taken = minimum(own, length // 2 + 1 if halved else length)
    x, y = _along(source, axis), _along(result, axis)
    _transform(node, low, x, y, length, taken, result.shape[axis], parts)


@lowers("STFT")
def lower_short_time(node: Node, low: Lowering) -> None:
    """Transforms of overlapping frames, which are read where they lie."""
    checked(node)
    parts, given, frame = _parts(node.inputs[0]), node.input(2), node.input(3)
    shape = shape_of(node.inputs[0])
    if len(shape) != 3 or node.inputs[1] is None:
        raise NoKernel("its signal has not three axes")
    step = _number(node.inputs[1], "step")
    if frame is not None:
        length = _number(frame, "length")
    else:
        length = shape[1] if given is None else shape_of(given)[0]
    source = low.read_dense(node.inputs[0])
    window = None if given is None else low.read_dense(given)
    result = low.write(node.outputs[0])
    batch, frames, bins, _ = result.shape
    signal = Dim.of(parts)
    x = _Lines(source, batch, frames, source.strides[0], step * parts, signal)
    y = _Lines(result, batch, frames, result.strides[0], result.strides[1], result.strides[2])
    _transform(node, low, x, y, length, length, bins, parts, window)
