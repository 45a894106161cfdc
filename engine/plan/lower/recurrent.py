"""Lowering of LSTM, GRU and RNN: one dot call for all inputs, one kernel call for all steps.

Constant weights are packed here, once, for the projection and for the steps; computed ones are
brought into the same formats by every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.codegen.expression import Expr
from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim
from engine.graph.ir import Node, Value
from engine.kernels.activations import DEFAULTS
from engine.kernels.recurrent_cells import GATES, PLANES
from engine.kernels.recurrent_team import team_bytes
from engine.kernels.recurrent_tiles import PASSES, sums_bytes
from engine.plan.lower.dot import computed as emit_computed
from engine.plan.lower.dot import weights as emit_projection
from engine.plan.lower.recurrent_teams import LayerSize, split
from engine.plan.lower.recurrent_weights import ComputedWeights, is_computed
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.recurrent_weights import (
    FloatArray,
    columns,
    pack_projection,
    pack_recurrent,
    pad_gates,
)
from engine.plan.tensor import ONE, Tensor

_USUAL: Final = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
_DIRECTIONS: Final = ("forward", "reverse", "bidirectional")

_Packed = dict[str, FloatArray | Tensor]
"""Weights of the steps by field of the kernel: constants, or what a run packs."""

Activations = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class _Cell:
    """What a node's attributes say, with everything that has a default filled in."""

    kind: str
    directions: int
    reverse: bool
    batch_first: bool
    activations: tuple[Activations, ...]
    clip: float | None
    input_forget: bool

    @property
    def gates(self) -> int:
        """Gates of the cell."""
        return GATES[self.kind]


def _activations(node: Node, directions: int) -> tuple[Activations, ...]:
    """Activations per direction; each takes the next alpha and beta if it takes any."""
    usual = _USUAL[node.op]
    names = [str(name) for name in node.attribute("activations") or usual * directions]
    if len(names) != len(usual) * directions:
        raise NoKernel(f"{len(names)} activations where the cell has {len(usual) * directions}")
    alphas = iter(node.attribute("activation_alpha") or ())
    betas = iter(node.attribute("activation_beta") or ())
    known = {name.lower(): name for name in DEFAULTS}
    found: list[tuple[str, float, float]] = []
    for name in names:
        if name.lower() not in known:
            raise NoKernel(f"activation {name!r}")
        alpha, beta = DEFAULTS[known[name.lower()]]
        found.append(
            (
                known[name.lower()],
                float(next(alphas, alpha)) if alpha is not None else 0.0,
                float(next(betas, beta)) if beta is not None else 0.0,
            )
        )
    count = len(usual)
    return tuple(tuple(found[d * count : (d + 1) * count]) for d in range(directions))


def _cell(node: Node) -> _Cell:
    direction = str(node.attribute("direction", "forward"))
    if direction not in _DIRECTIONS:
        raise NoKernel(f"direction {direction!r}")
    kind = node.op.lower()
    if kind == "gru" and node.attribute("linear_before_reset", 0):
        kind = "gru_linear"
    directions = 2 if direction == "bidirectional" else 1
    clip = node.attribute("clip")
    return _Cell(
        kind,
        directions,
        direction == "reverse",
        bool(node.attribute("layout", 0)),
        _activations(node, directions),
        float(clip) if clip else None,
        bool(node.attribute("input_forget", 0)),
    )


def _constant(node: Node, index: int, name: str) -> FloatArray | None:
    value = node.input(index)
    if value is None:
        return None
    assert value.data is not None
    if value.data.dtype != np.float32:
        raise NoKernel(f"the input {name} is {value.data.dtype}; kernels compute float32")
    return value.data


@dataclass(frozen=True)
class _Weights:
    """Packed weights: the projection's matrix and bias, and the kernel's tensors by field."""

    projection: FloatArray
    bias: FloatArray
    packed: dict[str, FloatArray]


def _pack(node: Node, cell: _Cell, lanes: int) -> _Weights:
    """Pack a node's weights; NoKernel where they are not known."""
    w, r = _constant(node, 1, "W"), _constant(node, 2, "R")
    b, peephole = _constant(node, 3, "B"), None
    if node.op == "LSTM":
        peephole = _constant(node, 7, "P")
    assert w is not None
    assert r is not None
    gates, hidden = cell.gates, r.shape[2]
    half = gates * hidden
    if b is None:
        b = np.zeros((cell.directions, 2 * half), np.float32)
    bias, state_bias = b[:, :half], b[:, half:].copy()
    packed: dict[str, FloatArray] = {}
    if cell.kind == "gru_linear":
        packed["rb"] = pad_gates(state_bias[:, 2 * hidden :], 1, lanes)
        state_bias[:, 2 * hidden :] = 0
    first = 0
    for name, part in zip(("r", "r2"), PASSES[cell.kind], strict=False):
        rows = r[:, first * hidden : (first + part) * hidden]
        packed[name] = pack_recurrent(rows, part, lanes)
        first += part
    if peephole is not None:
        packed["peephole"] = pad_gates(peephole, 3, lanes)
    flat = columns(bias + state_bias, gates, lanes).reshape(-1)
    return _Weights(pack_projection(w, gates, lanes), np.ascontiguousarray(flat), packed)


@lowers("LSTM", "GRU", "RNN")
def lower_recurrent(node: Node, low: Lowering) -> None:
    """A recurrent layer of one or two directions."""
    value = node.inputs[0]
    if value is None or value.shape is None or value.rank != 3:
        raise NoKernel("the input X is not known to have three axes")
    if str(value.dtype) != "float32":
        raise NoKernel(f"{node.op} of {value.dtype}; kernels compute float32")
    cell = _cell(node)
    x = low.read(value)
    if x.strides[-1] != 1:
        x = low.contiguous(x)
    project = _project_computed if is_computed(node) else _project
    packed, projected = project(low, node, cell, x)
    if len(set(cell.activations)) == 1:
        _emit_steps(low, node, cell, packed, projected, range(cell.directions))
    else:
        for direction in range(cell.directions):
            _emit_steps(low, node, cell, packed, projected, range(direction, direction + 1))


_PROJECTED: Final = Expr.of("add", Expr.input(0, "float32"), Expr.input(1, "float32"))


def _project(low: Lowering, node: Node, cell: _Cell, x: Tensor) -> tuple[_Packed, Tensor]:
    """Emit the products of all inputs; weights of the steps by field, and the products."""
    weights = _pack(node, cell, low.target.lanes(4))
    size = Dim.of(weights.bias.size)
    projected = low.temp(np.float32, (*x.shape[:2], size), "projected")
    bias = Value("bias", np.dtype(np.float32), (size,), weights.bias)
    name = node.inputs[1].name if node.inputs[1] is not None else node.label
    emit_projection(low, weights.projection, x, projected, _PROJECTED, [("column", bias)], name)
    return dict(weights.packed), projected


def _project_computed(low: Lowering, node: Node, cell: _Cell, x: Tensor) -> tuple[_Packed, Tensor]:
    """As `_project`, with weights that are packed by every run."""
    weights = ComputedWeights(low, node, cell.kind, cell.gates, cell.directions)
    columns = weights.bias.shape[0]
    projected = low.temp(np.float32, (*x.shape[:2], columns), "projected")
    rows = x.shape[0] * x.shape[1]
    flat = low.contiguous(x).view((rows, x.shape[2]))
    result = projected.view((rows, columns))
    bias = [("column", weights.bias)]
    emit_computed(low, flat, weights.projection, result, _PROJECTED, bias)
    return dict(weights.packed), projected


def _emit_steps(
    low: Lowering,
    node: Node,
    cell: _Cell,
    weights: _Packed,
    projected: Tensor,
    directions: Sequence[int],
) -> None:
    """Emit the kernel for consecutive directions that share their activations."""
    first, count = directions[0], len(directions)
    step_axis, row_axis = (1, 0) if cell.batch_first else (0, 1)
    steps, rows = projected.shape[step_axis], projected.shape[row_axis]
    padded = _padded(weights)
    lanes = low.target.lanes(4)
    teams = split(LayerSize(rows, count, padded, cell.gates, lanes, len(PASSES[cell.kind])), low)
    size = int(node.attribute("hidden_size", _hidden(node)))
    # Rows of a power of two bytes would all meet in the same cache sets.
    pitch = padded * 4 + 64
    plane = rows * (count * pitch)
    team_size = teams.members * (team_bytes(1) - team_bytes(0)) + team_bytes(0)
    shared_words = teams.blocks * count * (team_size // 8)
    arguments: dict[str, Any] = {
        "state": low.temp(np.uint8, (plane * PLANES[cell.kind],), "state"),
        "shared": low.temp(np.int64, (shared_words,), "team"),
        "hidden": size,
        "padded": padded,
        "pitch": pitch,
        "plane": plane,
    }
    _emit_start(low, node, cell, arguments, rows, shared_words, directions)
    arguments |= {
        "steps": steps,
        "rows": rows,
        "row_block": teams.block,
        "row_blocks": teams.blocks,
        "team": teams.members,
        "share": (teams.members + (padded // lanes - 1)) // teams.members,
        "team_bytes": team_size,
        "reverse": int(cell.reverse or first == 1),
        "x_t": projected.strides[step_axis],
        "x_b": projected.strides[row_axis],
        "x": _shift(projected, first * cell.gates * padded),
    }
    for name, array in weights.items():
        if isinstance(array, Tensor):
            arguments[name] = array.window(0, Dim.of(first), Dim.of(count))
        else:
            arguments[name] = low.constant(array[first : first + count], _name(node, name))
    if cell.clip is not None:
        arguments["clip"] = cell.clip
    lengths = node.input(4)
    if lengths is not None:
        arguments["lengths"] = low.read_dense(lengths)
    outputs: list[str] = []
    for name, value in zip(("y", "yh", "yc"), node.outputs, strict=False):
        if not value.name:
            continue
        outputs.append(name)
        tensor = low.write(value)
        if name == "y":
            axes = (1, 2, 0) if cell.batch_first else (0, 1, 2)
            t, d, b = (tensor.strides[axis] for axis in axes)
            arguments |= {"y": _shift(tensor, d * first), "y_t": t, "y_d": d, "y_b": b}
        else:
            _state(arguments, name, tensor, cell.batch_first, first)
    spec = KernelSpec.of(
        "recurrent",
        cell=cell.kind,
        activations=cell.activations[first],
        clip=cell.clip is not None,
        peephole="peephole" in weights,
        input_forget=cell.input_forget,
        lengths=lengths is not None,
        ragged=False,
        outputs=outputs,
    )
    low.call(
        spec,
        items=teams.blocks * teams.members * count,
        cost=steps * teams.cost + 200,
        scratch=teams.block * sums_bytes(cell.kind, low.target),
        writes=" ".join(("state", "shared", *outputs)),
        **arguments,
    )


def _emit_start(
    low: Lowering,
    node: Node,
    cell: _Cell,
    states: dict[str, Any],
    rows: Dim,
    words: Dim,
    directions: Sequence[int],
) -> None:
    """Emit the writing of the initial states, and of the team's memory."""
    arguments = dict(states)
    initial: list[str] = []
    for name, index in (("h0", 5), ("c0", 6)):
        value = node.input(index) if node.op == "LSTM" or index == 5 else None
        if value is not None:
            initial.append(name)
            tensor = low.read(value)
            if tensor.strides[-1] != ONE:
                tensor = low.contiguous(tensor)
            _state(arguments, name, tensor, cell.batch_first, directions[0])
    low.call(
        KernelSpec.of("recurrent_start", cell=cell.kind, initial=initial),
        items=len(directions),
        cost=rows * (int(arguments["padded"]) // 8) + 20,
        writes="state shared",
        rows=rows,
        words=words,
        **arguments,
    )


def _name(node: Node, field: str) -> str:
    """Name of the weight that a tensor of the kernel is made of."""
    value = node.input({"r": 2, "r2": 2, "rb": 3, "peephole": 7}[field])
    return node.label if value is None else value.name


def _hidden(node: Node) -> int:
    value = node.inputs[2]
    assert value is not None
    assert value.shape is not None
    return value.shape[2].value


def _padded(weights: _Packed) -> int:
    """Hidden columns in whole vectors."""
    width = weights["r"].shape[3]
    return width if isinstance(width, int) else width.value


def _shift(tensor: Tensor, elements: Dim | int) -> Tensor:
    """The tensor seen from `elements` further on."""
    return tensor.window(tensor.rank - 1, Dim.of(elements), tensor.shape[-1])


def _state(
    arguments: dict[str, Any], name: str, tensor: Tensor, batch_first: bool, first: int
) -> None:
    """Fields of a state [directions, rows, hidden], rows first where the layout says so."""
    d, b = (1, 0) if batch_first else (0, 1)
    stride = tensor.strides[d]
    arguments |= {
        name: _shift(tensor, stride * first),
        f"{name}_d": stride,
        f"{name}_b": tensor.strides[b],
    }
