"""The element-wise kernel itself: several outputs, in place, guard bytes, splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.codegen.expression import Expr, to_json
from engine.codegen.kernel import KernelSpec
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]
A, B = Expr.input(0, "float32"), Expr.input(1, "float32")


def one_axis(
    isa: str, exprs: list[Expr], outputs: list[Array], inputs: list[Array], modes: str, **kw: int
) -> None:
    size = outputs[0].size
    tile = kw.pop("tile", 64)
    spec = KernelSpec.of(
        "elementwise",
        expressions=to_json(exprs),
        dtypes=[x.dtype.name for x in inputs],
        modes=modes,
        outer=0,
    )
    arguments: dict[str, Any] = {f"y{i}": y for i, y in enumerate(outputs)}
    arguments |= {f"x{i}": x for i, x in enumerate(inputs)}
    arguments |= {f"{name}_row": 0 for name in list(arguments)}
    for i, (mode, x) in enumerate(zip(modes, inputs, strict=True)):
        if mode == "g":
            arguments[f"x{i}_column"] = x.strides[0]
    tiles = -(-size // tile)
    status = run_kernel(
        spec,
        isa,
        tiles,
        rows=1,
        columns=size,
        tile_rows=1,
        tile_columns=tile,
        row_tiles=1,
        column_tiles=tiles,
        **kw,
        **arguments,
    )
    assert status == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 3, 16, 63, 64, 65, 200])
def test_several_outputs_of_different_types(size: int, isa: str) -> None:
    a, b = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    total = np.zeros(size, np.float32)
    less = np.full(size + 8, 7, np.uint8)
    whole = np.zeros(size, np.int64)
    exprs = [Expr.of("add", A, B), Expr.of("less", A, B), Expr.of("add", A, B).cast("int64")]
    one_axis(isa, exprs, [total, less[:size].view(np.bool_), whole], [a, b], "cc")
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(less[:size], (a < b).astype(np.uint8))
    np.testing.assert_array_equal(whole, (a + b).astype(np.int64))
    assert np.all(less[size:] == 7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [5, 64, 131])
def test_an_output_may_take_the_place_of_an_input(size: int, isa: str) -> None:
    a, b = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    expected = a * b
    one_axis(isa, [Expr.of("mul", A, B)], [a], [a, b], "cc")
    np.testing.assert_array_equal(a, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_strides_known_when_running(step: int, isa: str) -> None:
    a = np.random.default_rng(step).standard_normal(100).astype(np.float32)
    wide = np.random.default_rng(9).standard_normal(301).astype(np.float32)
    b = np.lib.stride_tricks.as_strided(wide, (100,), (4 * step,))
    y = np.zeros(104, np.float32)
    one_axis(isa, [Expr.of("sub", A, B)], [y[:100]], [a, b], "cg")
    np.testing.assert_array_equal(y[:100], a - b)
    assert not y[100:].any()


@pytest.mark.parametrize("isa", ISAS)
def test_bytes_do_not_depend_on_the_split(isa: str) -> None:
    a = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    results = []
    for pieces in (1, 3, 7):
        y = np.zeros_like(a)
        one_axis(isa, [Expr.of("tanh", A)], [y], [a], "c", pieces=pieces)
        results.append(y.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_vector_and_tail_agree_to_the_bit(isa: str) -> None:
    """An element's value does not depend on its place: batches may be cut anywhere."""
    a = np.random.default_rng(2).standard_normal(67).astype(np.float32) * 3
    ops = [Expr.of(op, A) for op in ("exp", "sigmoid", "erf", "log1p", "sin")]
    ops.append(Expr.of("pow", Expr.of("abs", A), B))
    for expr in ops:
        whole, shifted = np.zeros_like(a), np.zeros_like(a)
        one_axis(isa, [expr], [whole], [a, a][: len(expr.inputs)], "cc"[: len(expr.inputs)])
        for i in range(a.size):
            one = a[i : i + 1]
            one_axis(
                isa,
                [expr],
                [shifted[i : i + 1]],
                [one, one][: len(expr.inputs)],
                "cc"[: len(expr.inputs)],
            )
        assert whole.tobytes() == shifted.tobytes(), str(expr)


@pytest.mark.parametrize("isa", ISAS)
def test_expression_without_inputs(isa: str) -> None:
    y = np.zeros(37, np.float32)
    one_axis(isa, [Expr.constant(2.5, "float32")], [y], [], "")
    assert np.all(y == 2.5)
