"""Element-wise operators, lowered alone, against onnxruntime and the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from engine.codegen.onnx_expression import from_node
from engine.graph.dims import Dim, broadcast, symbol
from engine.graph.ir import OURS, Node, Value
from engine.plan.lowering import NoKernel, lowering_of
from engine.plan.tensor import row_major
from tests.engine.harness import ISAS
from tests.engine.lowered import Bench

Array = np.ndarray[Any, Any]
OPSET = 21
RNG = np.random.default_rng(11)


def model_of(op: str, arrays: list[Array], attributes: dict[str, Any], opset: int) -> Any:
    names = [f"x{i}" for i in range(len(arrays))]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for name, a in zip(names, arrays, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def oracle(op: str, arrays: list[Array], attributes: dict[str, Any], opset: int = OPSET) -> Array:
    """onnxruntime's result, or the reference evaluator's where onnxruntime has no such kernel."""
    model = model_of(op, arrays, attributes, opset)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with np.errstate(all="ignore"):
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            (result,) = session.run(None, feeds)
        except Exception:
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result)


def ours(
    isa: str,
    op: str,
    arrays: list[Array],
    attributes: dict[str, Any],
    dtype: Any,
    opset: int = OPSET,
    constants: tuple[int, ...] = (),
    pieces: int = 1,
    domain: str = "",
) -> Array:
    bench = Bench(isa, static=True)
    values: list[Value | None] = []
    for i, array in enumerate(arrays):
        value = bench.value(array, f"x{i}")
        if i in constants:
            value.data = array
        values.append(value)
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    out = Value("y", np.dtype(dtype), tuple(Dim.of(n) for n in shape))
    node = Node(op, values, [out], attributes, domain, opset)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    assert bench.execute(pieces) == 0
    return bench.array(bench.low.tensors[id(out)])


def agree(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected)
        return
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    finite = expected[np.isfinite(expected)]
    scale = np.abs(finite).max() if finite.size else 0.0
    with np.errstate(all="ignore"):
        same = (found == expected) | (np.abs(found - expected) <= 1e-5 * scale + 1e-6)
    assert np.all(same | np.isnan(expected)), (found[~same], expected[~same])


def floats(dtype: Any = np.float32, size: int = 301) -> Array:
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, 20.0, -20.0]
    values = np.concatenate([special, RNG.uniform(-6, 6, size - len(special))])
    return values.astype(dtype)


def integers(dtype: Any, size: int = 301) -> Array:
    info = np.iinfo(dtype)
    special = np.array([info.min, info.max, 0, 1, 2], dtype)
    low, high = max(info.min, -100), min(info.max, 100)
    return np.concatenate([special, RNG.integers(low, high, size - 5).astype(dtype)])


def rotated(*case: Any) -> str:
    """One instruction set per case, all of them over the cases: for large tables of types."""
    return ISAS[sum(map(ord, repr(case))) % len(ISAS)]


UNARY: list[tuple[str, dict[str, Any]]] = [
    ("Abs", {}),
    ("Neg", {}),
    ("Exp", {}),
    ("Log", {}),
    ("Sqrt", {}),
    ("Reciprocal", {}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("Erf", {}),
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("Elu", {"alpha": 1.3}),
    ("Selu", {}),
    ("Celu", {"alpha": 0.7}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Mish", {}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("ThresholdedRelu", {"alpha": 0.8}),
    ("Floor", {}),
    ("Ceil", {}),
    ("Round", {}),
    ("Sign", {}),
    ("IsNaN", {}),
    ("IsInf", {}),
    ("IsInf", {"detect_negative": 0}),
    ("IsInf", {"detect_positive": 0}),
    ("Identity", {}),
    ("Sin", {}),
    ("Cos", {}),
    ("Tan", {}),
]
# At infinity and NaN these are what their formula gives; implementations differ.
FINITE_ONLY = {"Softsign", "Mish", "Gelu", "HardSwish", "Selu", "Celu", "ThresholdedRelu", "Elu"}
# onnxruntime lets NaN through here or not, depending on the place in the vector.
NAN_DIFFERS = {"Relu", "HardSigmoid", "LeakyRelu", "Softplus", "Erf", "Tanh", "Sigmoid"}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("op", "attributes"), UNARY)
def test_unary(op: str, attributes: dict[str, Any], isa: str) -> None:
    x = floats()
    if op in FINITE_ONLY:
        x = x[np.isfinite(x)]
    if op in NAN_DIFFERS:
        x = x[~np.isnan(x)]
    expected = oracle(op, [x], attributes)
    agree(ours(isa, op, [x], attributes, expected.dtype), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "op", ["Relu", "Tanh", "Sigmoid", "Exp", "Erf", "Sqrt", "Softplus", "Sign"]
)
def test_nan_stays_nan(op: str, isa: str) -> None:
    x = np.full(19, np.nan, np.float32)
    assert np.isnan(ours(isa, op, [x], {}, np.float32)).all()


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.int8, np.int16])
@pytest.mark.parametrize("op", ["Abs", "Neg", "Sign", "Relu", "Identity"])
def test_unary_of_other_types(op: str, dtype: Any) -> None:
    isa = rotated(op, dtype)
    x = floats(dtype) if dtype == np.float64 else integers(dtype)
    x = x[~np.isnan(x)] if dtype == np.float64 else x
    expected = oracle(op, [x], {})
    agree(ours(isa, op, [x], {}, dtype), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "PRelu"])
def test_float_binary(op: str, isa: str) -> None:
    a, b = (grid.reshape(-1) for grid in np.meshgrid(floats(size=60), floats(size=60)))
    if op == "PRelu":
        a = np.nan_to_num(a, nan=1.0)
    with np.errstate(all="ignore"):
        expected = oracle(op, [a, b], {})
    agree(ours(isa, op, [a, b], {}, np.float32), expected)


INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("dtype", [*INTEGERS, np.float64])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max", "Div", "Mod"])
def test_binary_types(op: str, dtype: Any) -> None:
    isa = rotated(op, dtype)
    a, b = floats(dtype) if dtype == np.float64 else integers(dtype), None
    b = RNG.permutation(a)
    attributes = {"fmod": 1} if op == "Mod" and dtype == np.float64 else {}
    if op in ("Div", "Mod") and dtype != np.float64:
        b[b == 0] = 3
        b[(b.astype(np.int64) == -1) & (a == a.min())] = 5
    expected = oracle(op, [a, b], attributes)
    agree(ours(isa, op, [a, b], attributes, dtype), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integer_division_by_zero_and_minus_one_does_not_trap(dtype: Any, isa: str) -> None:
    info = np.iinfo(dtype)
    a = np.array([info.min, info.max, 7, 0] * 9, dtype)
    zero = np.zeros_like(a)
    assert not ours(isa, "Div", [a, zero], {}, dtype).any()
    if info.min < 0:
        minus_one = zero - 1
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(ours(isa, "Div", [a, minus_one], {}, dtype), -a)
        assert not ours(isa, "Mod", [a, minus_one], {}, dtype).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmod", [0, 1])
def test_modulus_takes_the_sign_of_the_divisor_or_the_dividend(fmod: int, isa: str) -> None:
    a = np.arange(-50, 50, dtype=np.int32)
    b = np.resize(np.array([3, -3, 7, -8], np.int32), 100)
    agree(ours(isa, "Mod", [a, b], {"fmod": fmod}, np.int32), oracle("Mod", [a, b], {"fmod": fmod}))


COMPARISONS = ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint8, np.int8])
@pytest.mark.parametrize("op", COMPARISONS)
def test_comparisons(op: str, dtype: Any) -> None:
    isa = rotated(op, dtype)
    a = floats(dtype) if np.dtype(dtype).kind == "f" else integers(dtype)
    b = RNG.permutation(a)
    expected = oracle(op, [a, b], {})
    agree(ours(isa, op, [a, b], {}, np.bool_), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Equal", "Not"])
def test_logic(op: str, isa: str) -> None:
    operands = [RNG.random(131) < 0.5 for _ in range(1 if op == "Not" else 2)]
    agree(ours(isa, op, operands, {}, np.bool_), oracle(op, operands, {}))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"])
def test_bitwise(op: str, dtype: Any) -> None:
    isa = rotated(op, dtype)
    a = integers(dtype)
    operands = [a] if op == "BitwiseNot" else [a, RNG.permutation(a)]
    agree(ours(isa, op, operands, {}, dtype), oracle(op, operands, {}))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64])
def test_bit_shift(dtype: Any, direction: str) -> None:
    isa = rotated(dtype, direction)
    a = integers(dtype)
    b = (np.arange(a.size) % (8 * np.dtype(dtype).itemsize)).astype(dtype)
    attributes = {"direction": direction}
    agree(ours(isa, "BitShift", [a, b], attributes, dtype), oracle("BitShift", [a, b], attributes))


NUMERIC = [np.float32, np.float64, *INTEGERS, np.bool_]


@pytest.mark.parametrize("target", NUMERIC)
@pytest.mark.parametrize("source", NUMERIC)
def test_casts(source: Any, target: Any) -> None:
    isa = rotated(source, target)
    if np.dtype(source).kind == "f":
        x = floats(source)
        x = x[np.isfinite(x)]
        if np.dtype(target).kind == "u":
            x = np.abs(x)
    elif source == np.bool_:
        x = RNG.random(77) < 0.5
    else:
        x = integers(source)
    attributes = {"to": int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target)))}
    expected = oracle("Cast", [x], attributes)
    agree(ours(isa, "Cast", [x], attributes, target), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("target", [np.int32, np.int64, np.int8, np.uint8])
def test_casts_of_what_does_not_fit_are_those_of_onnxruntime(target: Any, isa: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 1e20, -1e20, 300, -300, -1] * 4, np.float32)
    if target == np.uint8:
        x = x[np.abs(x) < 1e3]
    attributes = {"to": int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target)))}
    agree(ours(isa, "Cast", [x], attributes, target), oracle("Cast", [x], attributes))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_])
def test_where(dtype: Any, isa: str) -> None:
    condition = RNG.random((5, 1, 7)) < 0.5
    a = (RNG.random((3, 1)) * 100).astype(dtype)
    b = (RNG.random((5, 3, 7)) * 100).astype(dtype)
    operands = [condition, a, b]
    agree(ours(isa, "Where", operands, {}, dtype), oracle("Where", operands, {}))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_variadic(op: str, count: int, isa: str) -> None:
    shapes = [(4, 1, 9), (3, 1), (4, 3, 9)]
    operands = [RNG.standard_normal(s).astype(np.float32) for s in shapes[:count]]
    agree(ours(isa, op, operands, {}, np.float32), oracle(op, operands, {}))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("constants", [(), (1, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64])
def test_clip(dtype: Any, constants: tuple[int, ...], isa: str) -> None:
    x = (RNG.standard_normal(100) * 10).astype(dtype)
    operands = [x, np.array(-3, dtype), np.array(4, dtype)]
    found = ours(isa, "Clip", operands, {}, dtype, constants=constants)
    agree(found, oracle("Clip", operands, {}))


@pytest.mark.parametrize("isa", ISAS)
def test_clip_of_old_opsets(isa: str) -> None:
    x = RNG.standard_normal(100).astype(np.float32)
    attributes = {"min": -0.5}
    found = ours(isa, "Clip", [x], attributes, np.float32, opset=6)
    agree(found, oracle("Clip", [x], attributes, opset=6))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 0.5, -0.5, -1.0, 1.7, -2.0])
def test_power_with_constant_exponent(exponent: float, isa: str) -> None:
    x = floats()
    operands = [x, np.array([exponent], np.float32)]
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), np.full(x.size, exponent)).astype(np.float32)
    found = ours(isa, "Pow", operands, {}, np.float32, constants=(1,))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-6)
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(found[infinite], expected[infinite])


@pytest.mark.parametrize("isa", ISAS)
def test_power_of_integers(isa: str) -> None:
    x = np.arange(-20, 20, dtype=np.int64)
    operands = [x, np.array(2, np.int64)]
    agree(ours(isa, "Pow", operands, {}, np.int64, constants=(1,)), oracle("Pow", operands, {}))


@pytest.mark.parametrize("isa", ISAS)
def test_silu(isa: str) -> None:
    x = RNG.standard_normal(1000).astype(np.float32) * 4
    expected = (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)
    agree(ours(isa, "Silu", [x], {}, np.float32, domain=OURS), expected)


@st.composite
def broadcasting(draw: Any) -> list[tuple[int, ...]]:
    full = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 17, 40]), max_size=5))
    shapes = []
    for _ in range(draw(st.integers(2, 3))):
        kept = full[draw(st.integers(0, len(full))) :]
        shapes.append(tuple(1 if draw(st.booleans()) else n for n in kept))
    return shapes


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(shapes=broadcasting(), seed=st.integers(0, 1000))
def test_any_broadcast(isa: str, shapes: list[tuple[int, ...]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    operands = [generator.standard_normal(s).astype(np.float32) for s in shapes]
    expected = operands[0]
    for operand in operands[1:]:
        expected = expected + operand
    whole = ours(isa, "Sum", operands, {}, np.float32)
    np.testing.assert_array_equal(whole, expected)
    assert ours(isa, "Sum", operands, {}, np.float32, pieces=3).tobytes() == whole.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 3, 7, 33]), min_size=1, max_size=4),
    ones=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_axes_that_may_or_may_not_be_broadcast(
    isa: str, lengths: list[int], ones: list[bool]
) -> None:
    """Every axis of both inputs has a symbol of its own: strides are decided at bind."""
    bench = Bench(isa)
    shapes = [tuple(lengths), tuple(1 if one else n for one, n in zip(ones, lengths, strict=False))]
    arrays = [RNG.standard_normal(s).astype(np.float32) for s in shapes]
    values: list[Value | None] = []
    for i, array in enumerate(arrays):
        value = bench.value(array, f"x{i}")
        dims = []
        for axis, length in enumerate(array.shape):
            bench.sizes[f"s{i}_{axis}"] = length
            dims.append(symbol(f"s{i}_{axis}"))
        tensor = bench.low.tensors[id(value)]
        value.shape = tuple(dims)
        bench.low.tensors[id(value)] = type(tensor)(
            tensor.dtype, value.shape, row_major(dims), tensor.buffer
        )
        values.append(value)
    first, second = (v.shape for v in values if v is not None)
    assert first is not None
    assert second is not None
    shape = tuple(broadcast(a, b) for a, b in zip(first, second, strict=True))
    out = Value("y", np.dtype(np.float32), shape)
    node = Node("Add", values, [out], {}, "", OPSET)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    assert bench.execute() == 0
    np.testing.assert_array_equal(bench.array(bench.low.tensors[id(out)]), arrays[0] + arrays[1])


@pytest.mark.parametrize("isa", ISAS)
def test_transposed_input(isa: str) -> None:
    bench = Bench(isa)
    x, z = (RNG.standard_normal(s).astype(np.float32) for s in ((37, 21), (21, 37)))
    left, right = bench.input(x, "x").permute((1, 0)), bench.input(z, "z")
    values: list[Value | None] = []
    for name, tensor in (("a", left), ("b", right)):
        value = Value(name, tensor.dtype, left.shape)
        bench.low.tensors[id(value)] = tensor
        values.append(value)
    out = Value("y", np.dtype(np.float32), left.shape)
    bench.sizes.update({"z0": 21, "z1": 37})
    right_tensor = bench.low.tensors[id(values[1])]
    bench.low.tensors[id(values[1])] = type(right_tensor)(
        right_tensor.dtype, left.shape, row_major(left.shape), right_tensor.buffer
    )
    node = Node("Mul", values, [out], {}, "", OPSET)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    assert bench.execute() == 0
    np.testing.assert_array_equal(bench.array(bench.low.tensors[id(out)]), x.T * z)


@pytest.mark.parametrize(
    ("op", "dtype", "reason"),
    [
        ("Exp", np.float64, "exp exists for float32 only"),
        ("Acos", np.float32, "no native kernel"),
        ("Add", object, "input 0 is object"),
    ],
)
def test_reasons_for_what_has_no_kernel(op: str, dtype: Any, reason: str) -> None:
    bench = Bench(ISAS[0])
    dims = (Dim.of(3),)
    values: list[Value | None] = [Value("a", np.dtype(dtype), dims)]
    if op == "Add":
        values *= 2
    node = Node(op, values, [Value("y", np.dtype(dtype), dims)], {}, "", OPSET)
    bench.low.node = node
    with pytest.raises(NoKernel, match=reason):
        lowering_of(node)(node, bench.low)
    assert not bench.low.calls


def test_old_broadcast_along_an_axis_is_left_alone() -> None:
    x, bias = (Value(n, np.dtype(np.float32), (Dim.of(3),) * r) for n, r in (("x", 3), ("b", 1)))
    node = Node("Add", [x, bias], [Value("y", x.dtype, x.shape)], {"broadcast": 1, "axis": 1})
    node.version = 6
    assert "axis" in str(from_node(node))
