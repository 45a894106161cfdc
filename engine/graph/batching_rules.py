"""Rules of batching: along which axis the outputs of an operator carry the rows of the batch.

A rule sees the rows' axis of every input and returns the outputs' (one for all, or a list), or
raises `Refusal`. Inputs that only say a shape are not looked at: what they do to the rows shows in
the inferred shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from engine.graph.dims import Dim, symbol
from engine.graph.ir import Node, Value


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """Why rows are not proven independent."""


class Rows:
    """Which values carry the rows of the batch, and along which axis."""

    def __init__(self, name: str) -> None:
        self.symbol = name
        self.size = symbol(name)
        self._axes: dict[int, int] = {}
        self._numbers: set[int] = set()

    def axis(self, value: Value | None) -> int | None:
        """Axis of the rows, None for a value without them."""
        return None if value is None else self._axes.get(id(value))

    def is_number(self, value: Value | None) -> bool:
        """Whether the value is computed from the size of the batch."""
        return value is not None and id(value) in self._numbers

    def touches(self, value: Value) -> bool:
        """Whether the value depends on the batch at all."""
        return id(value) in self._axes or id(value) in self._numbers

    def carry(self, value: Value, axis: int) -> None:
        """Say that a value carries the rows along `axis`."""
        self._axes[id(value)] = axis

    def set_number(self, value: Value) -> None:
        """Say that a value is computed from the size of the batch."""
        self._numbers.add(id(value))

    def divides(self, dim: Dim) -> bool:
        """Whether `dim` is the batch size times something that does not depend on it."""
        factor = dim // self.size
        return self.symbol not in factor.symbols and factor * self.size is dim


Result: TypeAlias = "int | list[int | None] | None"
Rule: TypeAlias = Callable[[Node, Rows], Result]

RULES: Final[dict[str, Rule]] = {}


def _rule(*operators: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def _shape(value: Value | None) -> tuple[Dim, ...]:
    if value is None or value.shape is None:
        raise Refusal(f"reads {value.name if value else 'an input'!r}, whose shape is not known")
    return value.shape


def _rank(value: Value | None) -> int:
    return len(_shape(value))


def _free(rows: Rows, values: Sequence[Value | None]) -> None:
    """Require that none of the values depends on the batch."""
    for value in values:
        if value is not None and rows.touches(value):
            raise Refusal(f"uses {value.name!r}, which depends on the batch, for every row")


def _data_axis(node: Node, rows: Rows, others_from: int = 1) -> int:
    """Rows' axis of input 0, the only one that depends on the batch."""
    axis = rows.axis(node.input(0))
    _free(rows, node.inputs[others_from:])
    if axis is None:
        raise Refusal("computes with the size of the batch")
    return axis


def _positive(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def _constants(value: Value | None) -> list[int] | None:
    """Elements of a constant integer vector, None where they are not known."""
    if value is None:
        return None
    if value.data is not None:
        return [int(item) for item in value.data.reshape(-1)]
    if value.dims is None or not all(dim.is_constant for dim in value.dims):
        return None
    return [dim.value for dim in value.dims]


def _aligned(node: Node, rows: Rows, values: Sequence[Value | None], drop: int = 0) -> int:
    """Distance from the last axis at which broadcasting `values` carry the rows; `drop` trailing
    axes do not take part.
    """
    distances = set()
    for value in values:
        axis = rows.axis(value)
        if axis is not None:
            distances.add(_rank(value) - drop - axis)
        elif rows.is_number(value):
            raise Refusal("computes with the size of the batch")
    if len(distances) != 1 or min(distances) < 1:
        raise Refusal("brings together different axes of the batch")
    distance = distances.pop()
    for value in values:
        if value is None or rows.axis(value) is not None:
            continue
        position = _rank(value) - drop - distance
        if position >= 0 and _shape(value)[position] != 1:
            raise Refusal(f"gives every row of the batch an entry of {value.name!r}")
    return distance


_ELEMENTWISE: Final = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitCast"),
    *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor"),
    *("Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
    *("IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod"),
    *("Mul", "Neg", "Not", "Or", "Pow", "PRelu", "Reciprocal", "RegexFullMatch", "Relu", "Round"),
    *("Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt"),
    *("StringConcat", "Sub", "Sum", "SwiGLU", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("Where", "Xor"),
)


@_rule(*_ELEMENTWISE)
def elementwise(node: Node, rows: Rows) -> Result:
    """Rows stay where broadcasting puts them."""
    if node.op != "CastLike" and node.attribute("axis") is None:
        return _rank(node.outputs[0]) - _aligned(node, rows, node.inputs)
    # CastLike, and the old broadcasting from an axis on: input 0 gives the shape.
    return _data_axis(node, rows)


@_rule("Dropout")
def _dropout(node: Node, rows: Rows) -> Result:
    if node.version >= 12 and node.input(2) is not None and _constants(node.input(2)) != [0]:
        raise Refusal("may drop at random")
    return _data_axis(node, rows)


@_rule("QuantizeLinear", "DequantizeLinear")
def _quantise(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    scale = _shape(node.input(1))
    along = _positive(node.attribute("axis", 1), _rank(node.input(0)))
    if len(scale) == 1 and scale[0] != 1 and along == axis:
        raise Refusal("scales along the batch")
    if len(scale) > 1 and scale[axis] != 1:
        raise Refusal("scales along the batch in blocks")
    return axis


@_rule("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def reshape(node: Node, rows: Rows) -> Result:
    """Rows stay together where as many elements come before their axis as before."""
    axis = rows.axis(node.input(0))
    if axis is None:
        raise Refusal("computes with the size of the batch")
    before = Dim.of(1)
    for dim in _shape(node.input(0))[:axis]:
        before = before * dim
    passed = Dim.of(1)
    for position, dim in enumerate(_shape(node.outputs[0])):
        if passed is before and rows.symbol in dim.symbols and rows.divides(dim):
            return position
        passed = passed * dim
    raise Refusal("moves elements between rows")


@_rule("Transpose")
def _transpose(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    order = node.attribute("perm") or list(range(_rank(node.input(0))))[::-1]
    return list(order).index(axis)


_FIRST_AXIS: Final = (
    *("AveragePool", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace"),
    *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization"),
    *("InstanceNormalization", "LpPool", "LRN", "QLinearConv", "SpaceToDepth", "STFT"),
    "TfIdfVectorizer",
)


@_rule(*_FIRST_AXIS)
def _first_axis(node: Node, rows: Rows) -> Result:
    """Operators with images or sequences along axis 0, and parameters for all of them."""
    if _data_axis(node, rows) != 0:
        raise Refusal("does not have the batch on its axis 0")
    return 0


@_rule(
    "Attention",
    "CausalConvWithState",
    "DeformConv",
    "GridSample",
    "LinearAttention",
    "RotaryEmbedding",
    "TensorScatter",
)
def _first_axis_of_all(node: Node, rows: Rows) -> Result:
    """Operators whose inputs all have rows on axis 0, except parameters for all of them."""
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        axis = rows.axis(value)
        if rows.is_number(value) or axis not in (None, 0):
            raise Refusal(f"does not have the batch on axis 0 of {value.name!r}")
        if axis is None and not _is_shared(node, index, value):
            raise Refusal(f"uses {value.name!r} for every row")
        if axis == 0 and node.op == "Attention" and index == 3 and _rank(value) < 4:
            raise Refusal("has a mask whose axis 0 is not the batch")
    return 0


def _is_shared(node: Node, index: int, value: Value) -> bool:
    """Whether an input without rows may serve all rows."""
    if node.op == "Attention":
        return index == 3 and (_rank(value) < 4 or _shape(value)[0] == 1)
    if node.op == "RotaryEmbedding":
        return index in (1, 2) and _rank(value) == 2
    return index in {"CausalConvWithState": (1, 2), "DeformConv": (1, 3)}.get(node.op, ())


@_rule("MaxPool")
def _max_pool(node: Node, rows: Rows) -> Result:
    if len(node.outputs) > 1:
        raise Refusal("counts positions over the whole batch")
    return _first_axis(node, rows)


@_rule("BatchNormalization")
def _batch_normalisation(node: Node, rows: Rows) -> Result:
    if node.attribute("training_mode", 0) or (node.version < 7 and not node.attribute("is_test")):
        raise Refusal("takes statistics over the batch")
    return _first_axis(node, rows)


@_rule("AffineGrid")
def _affine_grid(node: Node, rows: Rows) -> Result:
    return _data_axis(node, rows, others_from=2)


@_rule("LayerNormalization", "RMSNormalization")
def _layer_normalisation(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    if axis >= _positive(node.attribute("axis", -1), _rank(node.input(0))):
        raise Refusal("normalises over the batch")
    return axis


@_rule("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")
def _softmax(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    rank = _rank(node.input(0))
    old = node.op != "LpNormalization" and node.version < 13
    over = _positive(node.attribute("axis", 1 if old else -1), rank)
    # Until version 13 all axes from `axis` on are one.
    if axis == over or (old and axis > over):
        raise Refusal("normalises over the batch")
    return axis


@_rule("MeanVarianceNormalization")
def _mean_variance(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    over = node.attribute("axes", [0, 2, 3])
    if axis in {_positive(item, _rank(node.input(0))) for item in over}:
        raise Refusal("normalises over the batch")
    return axis


def _product(node: Node, rows: Rows, left: Value | None, right: Value | None) -> Result:
    others = [v for v in node.inputs if v is not left and v is not right]
    _free(rows, others)
    left_axis, right_axis = rows.axis(left), rows.axis(right)
    left_rank, right_rank, rank = _rank(left), _rank(right), _rank(node.outputs[0])
    if rows.is_number(left) or rows.is_number(right):
        raise Refusal("computes with the size of the batch")
    inner = (left_rank - 1, max(right_rank - 2, 0))
    if left_axis == inner[0] or right_axis == inner[1]:
        raise Refusal("sums over the batch")
    if left_axis == left_rank - 2 and right_axis is None:
        return rank - (2 if right_rank > 1 else 1)
    if right_axis == right_rank - 1 and left_axis is None:
        return rank - 1
    matrices = [v for v in (left, right) if _rank(v) > 1]
    kept = rank - (left_rank > 1) - (right_rank > 1)
    return kept - _aligned(node, rows, matrices, drop=2)


@_rule("MatMul", "MatMulInteger")
def _matmul(node: Node, rows: Rows) -> Result:
    return _product(node, rows, node.input(0), node.input(1))


@_rule("QLinearMatMul")
def _quantised_matmul(node: Node, rows: Rows) -> Result:
    return _product(node, rows, node.input(0), node.input(3))


@_rule("Gemm")
def _gemm(node: Node, rows: Rows) -> Result:
    _free(rows, node.inputs[1:2])
    if rows.axis(node.input(0)) != (1 if node.attribute("transA", 0) else 0):
        raise Refusal("sums over the batch")
    addend = node.input(2)
    if addend is None:
        return 0
    if rows.axis(addend) not in (None, _rank(addend) - 2) or rows.is_number(addend):
        raise Refusal("brings together different axes of the batch")
    if rows.axis(addend) is None and _rank(addend) == 2 and _shape(addend)[0] != 1:
        raise Refusal(f"gives every row of the batch an entry of {addend.name!r}")
    return 0


@_rule("Einsum")
def _einsum(node: Node, rows: Rows) -> Result:
    equation = node.attribute("equation").replace(" ", "")
    inputs, arrow, result = equation.partition("->")
    if "." in equation or not arrow:
        raise Refusal("has an equation that is not followed")
    letters = set()
    for value, term in zip(node.inputs, inputs.split(","), strict=True):
        axis = rows.axis(value)
        if axis is not None:
            letters.add(term[axis])
        elif rows.is_number(value):
            raise Refusal("computes with the size of the batch")
    if len(letters) != 1 or (letter := letters.pop()) not in result:
        raise Refusal("sums over the batch")
    for value, term in zip(node.inputs, inputs.split(","), strict=True):
        if term.count(letter) > 1 or (rows.axis(value) is None and letter in term):
            raise Refusal("brings together different axes of the batch")
    return int(result.index(letter))


@_rule("Concat")
def _concat(node: Node, rows: Rows) -> Result:
    axes = {rows.axis(value) for value in node.inputs}
    axis = axes.pop()
    if axes or axis is None or any(rows.is_number(value) for value in node.inputs):
        raise Refusal("joins values with the rows on different axes")
    if axis == _positive(node.attribute("axis", 1), _rank(node.input(0))):
        raise Refusal("joins along the batch")
    return axis


def _outside(node: Node, rows: Rows, along: int, what: str) -> int:
    axis = _data_axis(node, rows)
    if axis == _positive(along, _rank(node.input(0))):
        raise Refusal(f"{what} the batch")
    return axis


@_rule("Split")
def _split(node: Node, rows: Rows) -> Result:
    return _outside(node, rows, node.attribute("axis", 0), "splits")


@_rule("TopK")
def _top_k(node: Node, rows: Rows) -> Result:
    return _outside(node, rows, node.attribute("axis", -1), "sorts")


@_rule("CumSum", "CumProd")
def _cumulate(node: Node, rows: Rows) -> Result:
    along = _constants(node.input(1))
    if not along:
        raise Refusal("has an axis that is not known")
    return _outside(node, rows, along[0], "adds up along")


@_rule("DFT")
def _fourier(node: Node, rows: Rows) -> Result:
    along = [node.attribute("axis", 1)]
    if node.version >= 20:
        along = (_constants(node.input(2)) or [-1]) if node.input(2) is not None else [-2]
    return _outside(node, rows, along[0], "transforms")


@_rule("Trilu", "Det")
def _matrices(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    if axis >= _rank(node.input(0)) - 2:
        raise Refusal("has the batch inside its matrices")
    return axis


@_rule("Slice")
def _slice(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None:
        raise Refusal("computes with the size of the batch")
    axes = node.attribute("axes") if node.version < 10 else _constants(node.input(3))
    if axes is None:
        if node.version >= 10 and node.input(3) is not None:
            raise Refusal("has axes that are not known")
        axes = range(_rank(node.input(0)))
    touched = [_positive(item, _rank(node.input(0))) for item in axes]
    if axis in touched:
        steps = _constants(node.input(4)) if node.input(4) is not None else None
        reversed_or_unknown = node.input(4) is not None and (
            steps is None or touched.index(axis) >= len(steps) or steps[touched.index(axis)] != 1
        )
        if reversed_or_unknown or _shape(node.outputs[0])[axis] is not _shape(node.input(0))[axis]:
            raise Refusal("cuts the batch")
    return axis


@_rule("Pad")
def _pad(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None or (node.input(2) is not None and rows.touches(node.inputs[2])):  # type: ignore[arg-type]
        raise Refusal("computes with the size of the batch")
    rank = _rank(node.input(0))
    axes = list(range(rank))
    if node.input(3) is not None:
        known = _constants(node.input(3))
        if known is None:
            raise Refusal("has axes that are not known")
        axes = [_positive(item, rank) for item in known]
    if axis not in axes:
        return axis
    position = axes.index(axis)
    if node.version < 11:
        pads = node.attribute("pads") or node.attribute("paddings")
        items = [Dim.of(size) for size in pads]
    else:
        value = node.input(1)
        constants = _constants(value)
        if constants is not None:
            items = [Dim.of(size) for size in constants]
        elif value is not None and value.dims is not None:
            items = list(value.dims)
        else:
            raise Refusal("pads by sizes that are not known")
    if items[position] != 0 or items[position + len(axes)] != 0:
        raise Refusal("pads the batch")
    return axis


@_rule("Resize", "Tile", "Upsample", "CenterCropPad")
def _resize(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None or _shape(node.outputs[0])[axis] is not _shape(node.input(0))[axis]:
        raise Refusal("resizes the batch")
    if node.op == "Resize" and node.attribute("coordinate_transformation_mode") == (
        "tf_crop_and_resize"
    ):
        raise Refusal("may crop the batch")
    return axis


@_rule("Expand", "ConstantOfShape")
def _expand(node: Node, rows: Rows) -> Result:
    """Rows of the input, or the same row for all, where the result gets the size of the batch."""
    shape = _shape(node.outputs[0])
    source = node.input(0) if node.op == "Expand" else None
    axis = rows.axis(source)
    if axis is not None:
        return len(shape) - _rank(source) + axis
    if rows.is_number(source):
        raise Refusal("computes with the size of the batch")
    new = [position for position, dim in enumerate(shape) if rows.symbol in dim.symbols]
    if not new:
        return None
    position = new[0] - len(shape) + (_rank(source) if source is not None else 0)
    if source is not None and position >= 0 and _shape(source)[position] != 1:
        raise Refusal(f"gives every row of the batch an entry of {source.name!r}")
    return new[0]


@_rule("Gather")
def _gather(node: Node, rows: Rows) -> Result:
    data, indices = node.input(0), node.input(1)
    along = _positive(node.attribute("axis", 0), _rank(data))
    axis, picked = rows.axis(data), rows.axis(indices)
    if rows.is_number(indices) or rows.is_number(data):
        raise Refusal("computes with the size of the batch")
    if axis is None and picked is not None:
        return along + picked
    if axis is None or picked is not None:
        raise Refusal("picks by the batch from the batch")
    if axis == along:
        raise Refusal("picks rows of the batch")
    return axis if axis < along else axis + _rank(indices) - 1


@_rule("GatherElements", "ScatterElements")
def _gather_elements(node: Node, rows: Rows) -> Result:
    axes = {rows.axis(value) for value in node.inputs if value is not None}
    axis = axes.pop()
    if axes or axis is None:
        raise Refusal("picks between values with the rows on different axes")
    if axis == _positive(node.attribute("axis", 0), _rank(node.input(0))):
        raise Refusal("picks rows of the batch")
    return axis


@_rule("GatherND")
def _gather_nd(node: Node, rows: Rows) -> Result:
    data, indices = rows.axis(node.input(0)), rows.axis(node.input(1))
    batch = node.attribute("batch_dims", 0)
    if indices is None or indices >= _rank(node.input(1)) - 1:
        raise Refusal("picks rows of the batch")
    if data is not None and (data != indices or data >= batch):
        raise Refusal("picks rows of the batch")
    if data is None and (indices < batch or rows.is_number(node.input(0))):
        raise Refusal("gives every row of the batch an entry of another value")
    return indices


@_rule("OneHot")
def _one_hot(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    along = _positive(node.attribute("axis", -1), _rank(node.input(0)) + 1)
    return axis + 1 if along <= axis else axis


_REDUCTIONS: Final = (
    *("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


@_rule(*_REDUCTIONS)
def _reduce(node: Node, rows: Rows) -> Result:
    axis = _data_axis(node, rows)
    rank = _rank(node.input(0))
    if node.op.startswith("Arg"):
        axes = [node.attribute("axis", 0)]
    else:
        axes = node.attribute("axes") or []
        if node.input(1) is not None:
            known = _constants(node.input(1))
            if known is None:
                raise Refusal("has axes that are not known")
            axes = known
        if not axes and not node.attribute("noop_with_empty_axes", 0):
            axes = list(range(rank))
    reduced = {_positive(item, rank) for item in axes}
    if axis in reduced:
        raise Refusal("reduces over the batch")
    if node.attribute("keepdims", 1):
        return axis
    return axis - sum(item < axis for item in reduced)


@_rule("RNN", "GRU", "LSTM")
def _recurrent(node: Node, rows: Rows) -> Result:
    first = bool(node.attribute("layout", 0))
    if rows.axis(node.input(0)) != (0 if first else 1):
        raise Refusal("does not have the batch on its batch axis")
    _free(rows, [*node.inputs[1:4], *node.inputs[7:]])
    for index, axis in ((4, 0), (5, 0 if first else 1), (6, 0 if first else 1)):
        value = node.input(index)
        if value is not None and rows.axis(value) != axis:
            raise Refusal(f"does not have the batch on axis {axis} of {value.name!r}")
    return [0, 0, 0] if first else [2, 1, 1]


@_rule("ReverseSequence")
def _reverse_sequence(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None or axis != node.attribute("batch_axis", 1) or rows.axis(node.input(1)) != 0:
        raise Refusal("does not have the batch on its batch axis")
    return axis
