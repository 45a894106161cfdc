"""Element-wise operators, lowered alone, against onnxruntime and the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from engine.codegen.onnx_expression import from_node
from engine.graph.dims import Dim
from engine.graph.ir import OURS, Node, Value
from engine.plan.lowering import NoKernel, lowering_of
from tests.engine.harness import ISAS
from tests.engine.lowered import Bench
from tests.engine.plan.lower.element_values import (
    OPSET,
    RNG,
    agree,
    floats,
    integers,
    oracle,
    ours,
    rotated,
)

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


@pytest.mark.parametrize(
    ("op", "dtype", "reason"),
    [
        ("Multinomial", np.float32, "no native kernel"),
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
