"""Winograd as a candidate for 3x3 convolutions: when it pays, its packing, its call.

The choice is part of the arithmetic plan, because it decides how sums round: it follows from the
size of one image, the channels and the constants below, never from batch, threads or measurement.
Tiles of 4x4 pixels save most multiplications, but their filters are four times those of the direct
sum; where an image is so small that fetching them would take longest, tiles of 2x2 pixels are
a candidate, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.codegen.expression import Expr
from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.graph.ir import Node, Value
from engine.kernels import winograd
from engine.kernels.cook_toom import transforms
from engine.kernels.winograd import OUTPUTS, TAPS, patch
from engine.plan.lowering import Candidate, Lowering
from engine.plan.packing import FloatArray, packing, panel_vectors, panels_of
from engine.plan.tensor import ONE, Tensor
from engine.precision import ARITHMETIC

COST_VERSION: Final = 3
"""Version of the constants below; raise it when one changes, since bytes may then."""

DIRECT: Final = "direct sum"
"""Name of the algorithm that filtering is compared with."""

_LEAST_CHANNELS: Final = 8
"""Half a vector of channels is still faster: on one core of a Cascade Lake Xeon 10 to 16 channels
at 540 x 960 pixels take 14.9 ms instead of 28.6, 8 to 8 channels 0.88 times as long."""

_PATCH_COST: Final = {4: 400, 2: 180}
_BACK_COST: Final = {4: 350, 2: 160}
"""Operations per channel of transforming one patch, and one tile of products back, counted in
multiply-adds of the direct sum (the operations of `winograd`'s two transforms, loads included), by
pixels per tile and axis."""

_HEAVY: Final = 16 << 20
"""Bytes of filters for 4x4 pixels above which 2x2 pixels are a candidate."""

_STREAM_TILES: Final = ((5 << 18, 8), (5 << 20, 11))
_LONGEST_STREAM: Final = 16
"""Tiles whose multiplications take as long as fetching the transformed filters, by the filters'
bytes: up to the first number of bytes the second of tiles, beyond all of them the last. Small ones
come from the second-level cache, and a register tile of fewer rows than that is no faster. The
last-level cache gives some 4 bytes a cycle: 36·C·O·4 bytes against 36·C·O multiply-adds at 16 a
cycle. Fitted to images of 7 x 7 pixels, four tiles (`python -m benchmarks.regret`)."""

_BLOCK: Final = {4: 48, 2: 96}
"""Tiles per work item: the filters are streamed once per block."""

_PRODUCT_BYTES: Final = 16 << 20
"""Bound of a work item's products in scratch."""


def may_filter(node: Node) -> bool:
    """Whether minimal filtering computes this convolution at all.

    Not where it multiplies bf16 numbers: the transformed filters would be none.
    """
    weight = node.inputs[1]
    if weight is None or weight.data is None or weight.data.shape[2:] != (3, 3):
        return False
    if node.attribute("precision") == ARITHMETIC:
        return False
    outputs, channels = weight.data.shape[:2]
    unit = all(
        step == 1 for name in ("strides", "dilations") for step in node.attribute(name) or (1, 1)
    )
    narrow = min(outputs, channels) < _LEAST_CHANNELS
    return unit and node.attribute("group", 1) == 1 and not narrow


@dataclass(frozen=True)
class Filtering:
    """One convolution by minimal filtering; `pays` is 1 where it beats all else, otherwise 0.

    `size` are pixels per tile and axis, `cost` and `direct` multiply-adds of one image, or what
    takes as long.
    """

    size: int
    x: Tensor
    y: Tensor
    weight: Value
    extras: list[tuple[str, Tensor]]
    pays: Dim
    cost: Dim
    direct: Dim

    @property
    def positions(self) -> int:
        """Elements of a patch, and matrices of transformed filters."""
        return patch(self.size) ** 2

    def candidate(self, low: Lowering, *, fits: bool) -> Candidate:
        """What `explain` tells of it."""
        note = "" if fits else "no memory left for its filters"
        return Candidate(algorithm(self.size), self.cost // _speed(low), note)

    def fits(self, low: Lowering) -> bool:
        """Take memory for the transformed filters, unless too little is left."""
        assert self.weight.data is not None
        outputs, channels = self.weight.data.shape[:2]
        width = panel_vectors(outputs, low.target) * low.target.lanes()
        panels = -(-outputs // width)
        return low.spare.take(self.positions * panels * channels * width * 4)

    def emit(self, low: Lowering, epilogue: Expr | None) -> None:
        """Pack the transformed filters and emit the call."""
        assert self.weight.data is not None
        outputs, channels = self.weight.data.shape[:2]
        vectors = panel_vectors(outputs, low.target)
        lanes = low.target.lanes()
        width = vectors * lanes
        packed = _pack_filters(np.asarray(self.weight.data), self.size, width)
        u = low.constant(packed, f"{self.weight.name}.winograd")
        block = _BLOCK[self.size]
        panels = packed.shape[1]
        tiles_h, tiles_w = (ceildiv(length, self.size) for length in self.y.shape[1:3])
        tiles = self.y.shape[0] * tiles_h * tiles_w
        height = low.target.tile_rows(vectors)
        blocks = maximum(ceildiv(tiles, block), 1)
        m_block = maximum(ceildiv(ceildiv(tiles, blocks), height) * height, height)
        m_items = ceildiv(tiles, m_block)
        most = max(1, _PRODUCT_BYTES // (self.positions * (block + 16) * width * 4))
        n_block = maximum(minimum(m_items * panels // (4 * low.threads), min(panels, most)), 1)
        n_items = ceildiv(Dim.of(panels), n_block)
        row = (-(-channels // lanes) * lanes + lanes) * 4
        scratch = (m_block + height) * self.positions * (n_block * (width * 4) + (row + 64))
        numbers: dict[str, Dim | int] = {
            "tiles": tiles,
            "tiles_h": tiles_h,
            "tiles_w": tiles_w,
            "height": self.y.shape[1],
            "width": self.y.shape[2],
            "c": channels,
            "n": outputs,
            "row": row,
            "panel": channels * width * 4,
            "matrix": packed[0].nbytes,
            "m_block": m_block,
            "n_block": n_block,
            "m_items": m_items,
            "n_items": n_items,
        }
        tensors = {"x": self.x, "u": u, "y": self.y}
        for i, (_, tensor) in enumerate(self.extras):
            tensors[f"e{i}"] = tensor
        accesses = [access for access, _ in self.extras]
        spec = winograd.spec(self.size, vectors, accesses, epilogue)
        for name, tensor in tensors.items():
            if f"{name}_h" in spec.layout.fields:
                for axis, stride in zip("nhw", tensor.strides, strict=False):
                    numbers[f"{name}_{axis}"] = stride * 4
        work = m_block * (self.positions * channels * width // (4 * lanes)) * n_block
        low.call(
            spec,
            items=m_items * n_items * self.pays,
            cost=work + 1000,
            scratch=scratch,
            writes="y",
            **tensors,
            **numbers,
        )


def algorithm(size: int) -> str:
    """Name of minimal filtering with tiles of `size` pixels per axis."""
    return f"minimal filtering F({size}x{size}, {TAPS}x{TAPS})"


def direct_sum(filtering: Filtering, low: Lowering) -> Candidate:
    """The other way to compute the convolution of `filtering`."""
    return Candidate(DIRECT, filtering.direct // _speed(low))


def _speed(low: Lowering) -> int:
    """Rough multiply-adds per ns."""
    return 4 * low.target.lanes()


def filterings(
    x: Tensor,
    y: Tensor,
    weight: Value,
    extras: list[tuple[str, Tensor]],
    sizes: tuple[int, ...] = OUTPUTS,
) -> list[Filtering]:
    """Filterings of `x`, which starts at the first padded pixel, into `y`, by falling tile size.

    Where several cost the same, the first pays.
    """
    assert weight.data is not None
    outputs, channels = weight.data.shape[:2]
    if sizes == OUTPUTS and patch(OUTPUTS[0]) ** 2 * channels * outputs * 4 <= _HEAVY:
        sizes = OUTPUTS[:1]
    height, width = y.shape[1:3]
    direct = height * width * (TAPS**2 * channels * outputs)
    costs = [_cost(size, height, width, channels, outputs) for size in sizes]
    found = []
    for place, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
        pays = minimum(direct // cost, ONE)
        for other in costs[:place]:
            pays = pays * (ONE - minimum(cost // other, ONE))
        for other in costs[place + 1 :]:
            pays = pays * minimum(other // cost, ONE)
        found.append(Filtering(size, x, y, weight, extras, pays, cost, direct))
    return found


def _cost(size: int, height: Dim, width: Dim, channels: int, outputs: int) -> Dim:
    """Multiply-adds of one image in tiles of `size` pixels per axis, or what takes as long."""
    tiles = ceildiv(height, size) * ceildiv(width, size)
    weights = patch(size) ** 2 * channels * outputs
    moves = tiles * (_PATCH_COST[size] * channels + _BACK_COST[size] * outputs)
    return maximum(tiles, _stream_tiles(weights * 4)) * weights + moves


def _stream_tiles(size: int) -> int:
    """Least tiles that multiplications by filters of `size` bytes are counted for."""
    return next((tiles for limit, tiles in _STREAM_TILES if size <= limit), _LONGEST_STREAM)


def _filters_shape(filters: np.ndarray[Any, Any], size: int, width: int) -> tuple[int, ...]:
    outputs, channels = filters.shape[:2]
    return patch(size) ** 2, max(1, -(-outputs // width)), channels, width


@packing(_filters_shape)
def _pack_filters(filters: np.ndarray[Any, Any], size: int, width: int) -> FloatArray:
    """Panels of filters transformed for tiles of `size` pixels per axis."""
    return panels_of(_transformed(filters, size), width)


def _transformed(weight: FloatArray, size: int) -> FloatArray:
    """``G g Gᵀ`` of filters [O, C, 3, 3] in float64, as matrices [C, O]."""
    _, filters, _ = transforms(size, TAPS)
    g = np.array([[float(x) for x in row] for row in filters])
    outputs, channels = weight.shape[:2]
    taps = weight.astype(np.float64).transpose(2, 3, 0, 1).reshape(TAPS**2, -1)
    spread = (np.kron(g, g) @ taps).reshape(patch(size) ** 2, outputs, channels)
    matrices: FloatArray = spread.transpose(0, 2, 1).astype(np.float32)
    return matrices
