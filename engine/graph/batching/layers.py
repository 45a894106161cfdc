"""Rules of batching: layers with rows on axis 0, matrix products, recurrence."""

from __future__ import annotations

from typing import Final

from engine.graph.batching.rows import (
    Refusal,
    Result,
    Rows,
    aligned_distance,
    data_axis,
    positive,
    rank_of,
    require_free,
    rule,
    shape_of,
)
from engine.graph.ir import Node, Value

_FIRST_AXIS: Final = (
    *("AveragePool", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace"),
    *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization"),
    *("InstanceNormalization", "LpPool", "LRN", "QLinearConv", "SpaceToDepth", "STFT"),
    "TfIdfVectorizer",
)


@rule(*_FIRST_AXIS)
def _first_axis(node: Node, rows: Rows) -> Result:
    """Operators with images or sequences along axis 0, and parameters for all of them."""
    if data_axis(node, rows) != 0:
        raise Refusal("does not have the batch on its axis 0")
    return 0


_CLASSICAL: Final = (
    *("ArrayFeatureExtractor", "Binarizer", "FeatureVectorizer", "Imputer", "LinearClassifier"),
    *("LinearRegressor", "Normalizer", "OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler"),
    *("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
)


@rule(*(f"ai.onnx.ml.{operator}" for operator in _CLASSICAL))
def _samples(node: Node, rows: Rows) -> Result:
    """Classical models compute each row of features for itself; a vector is one row to them."""
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if index and node.op == "ArrayFeatureExtractor":
            require_free(rows, [value])
        elif rows.axis(value) != 0 or rank_of(value) < 2:
            raise Refusal(f"does not have the batch on axis 0 of {value.name!r}")
    return 0


@rule("ai.onnx.ml.LabelEncoder", "ai.onnx.ml.CategoryMapper")
def _labels(node: Node, rows: Rows) -> Result:
    """Encoders work on each element for itself."""
    return data_axis(node, rows)


@rule(
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
        if axis == 0 and node.op == "Attention" and index == 3 and rank_of(value) < 4:
            raise Refusal("has a mask whose axis 0 is not the batch")
    return 0


def _is_shared(node: Node, index: int, value: Value) -> bool:
    """Whether an input without rows may serve all rows."""
    if node.op == "Attention":
        return index == 3 and (rank_of(value) < 4 or shape_of(value)[0] == 1)
    if node.op == "RotaryEmbedding":
        return index in (1, 2) and rank_of(value) == 2
    return index in {"CausalConvWithState": (1, 2), "DeformConv": (1, 3)}.get(node.op, ())


@rule("MaxPool")
def _max_pool(node: Node, rows: Rows) -> Result:
    if len(node.outputs) > 1:
        raise Refusal("counts positions over the whole batch")
    return _first_axis(node, rows)


@rule("BatchNormalization")
def _batch_normalisation(node: Node, rows: Rows) -> Result:
    if node.attribute("training_mode", 0) or (node.version < 7 and not node.attribute("is_test")):
        raise Refusal("takes statistics over the batch")
    return _first_axis(node, rows)


@rule("AffineGrid")
def _affine_grid(node: Node, rows: Rows) -> Result:
    return data_axis(node, rows, others_from=2)


@rule("LayerNormalization", "RMSNormalization")
def _layer_normalisation(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    if axis >= positive(node.attribute("axis", -1), rank_of(node.input(0))):
        raise Refusal("normalises over the batch")
    return axis


@rule("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")
def _softmax(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    rank = rank_of(node.input(0))
    old = node.op != "LpNormalization" and node.version < 13
    over = positive(node.attribute("axis", 1 if old else -1), rank)
    # Until version 13 all axes from `axis` on are one.
    if axis == over or (old and axis > over):
        raise Refusal("normalises over the batch")
    return axis


@rule("MeanVarianceNormalization")
def _mean_variance(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    over = node.attribute("axes", [0, 2, 3])
    if axis in {positive(item, rank_of(node.input(0))) for item in over}:
        raise Refusal("normalises over the batch")
    return axis


def _product(node: Node, rows: Rows, left: Value | None, right: Value | None) -> Result:
    others = [v for v in node.inputs if v is not left and v is not right]
    require_free(rows, others)
    left_axis, right_axis = rows.axis(left), rows.axis(right)
    left_rank, right_rank, rank = rank_of(left), rank_of(right), rank_of(node.outputs[0])
    if rows.is_number(left) or rows.is_number(right):
        raise Refusal("computes with the size of the batch")
    inner = (left_rank - 1, max(right_rank - 2, 0))
    if left_axis == inner[0] or right_axis == inner[1]:
        raise Refusal("sums over the batch")
    if left_axis == left_rank - 2 and right_axis is None:
        return rank - (2 if right_rank > 1 else 1)
    if right_axis == right_rank - 1 and left_axis is None:
        return rank - 1
    matrices = [v for v in (left, right) if rank_of(v) > 1]
    kept = rank - (left_rank > 1) - (right_rank > 1)
    return kept - aligned_distance(node, rows, matrices, drop=2)


@rule("MatMul", "MatMulInteger")
def _matmul(node: Node, rows: Rows) -> Result:
    return _product(node, rows, node.input(0), node.input(1))


@rule("QLinearMatMul")
def _quantised_matmul(node: Node, rows: Rows) -> Result:
    return _product(node, rows, node.input(0), node.input(3))


@rule("Gemm")
def _gemm(node: Node, rows: Rows) -> Result:
    require_free(rows, node.inputs[1:2])
    if rows.axis(node.input(0)) != (1 if node.attribute("transA", 0) else 0):
        raise Refusal("sums over the batch")
    addend = node.input(2)
    if addend is None:
        return 0
    if rows.axis(addend) not in (None, rank_of(addend) - 2) or rows.is_number(addend):
        raise Refusal("brings together different axes of the batch")
    if rows.axis(addend) is None and rank_of(addend) == 2 and shape_of(addend)[0] != 1:
        raise Refusal(f"gives every row of the batch an entry of {addend.name!r}")
    return 0


@rule("Einsum")
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


@rule("RNN", "GRU", "LSTM")
def _recurrent(node: Node, rows: Rows) -> Result:
    first = bool(node.attribute("layout", 0))
    if rows.axis(node.input(0)) != (0 if first else 1):
        raise Refusal("does not have the batch on its batch axis")
    require_free(rows, [*node.inputs[1:4], *node.inputs[7:]])
    for index, axis in ((4, 0), (5, 0 if first else 1), (6, 0 if first else 1)):
        value = node.input(index)
        if value is not None and rows.axis(value) != axis:
            raise Refusal(f"does not have the batch on axis {axis} of {value.name!r}")
    return [0, 0, 0] if first else [2, 1, 1]
