"""Models of one normalisation against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tests.engine.harness import ISAS
from tests.engine.lowered import check_node
from tests.engine.single import Single


def data(*shape: int, dtype: Any = np.float32) -> Any:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 3 + 1).astype(dtype)


@pytest.mark.parametrize("axis", [-1, 1, -2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalisation(axis: int, bias: bool) -> None:
    shape = (4, 5, 37)
    weights = {"s": data(*shape[axis:]), **({"b": data(*shape[axis:]) * 2} if bias else {})}
    x = data(*shape)
    Single(
        "LayerNormalization",
        {"x": x, **weights},
        constants=list(weights),
        symbolic=False,
        axis=axis,
        outputs=["y", "mean", "inverse"],
    ).check(x=x)


def test_layer_normalisation_with_one_statistic() -> None:
    x, s = data(3, 21), data(21)
    Single(
        "LayerNormalization",
        {"x": x, "s": s},
        constants=["s"],
        symbolic=False,
        outputs=["y", "", "inverse"],
    ).check(x=x)


@pytest.mark.parametrize("isa", ISAS)
def test_root_mean_square(isa: str) -> None:
    arrays = [data(3, 5, 20), data(20)]
    check_node(isa, "RMSNormalization", arrays, opset=23, tolerance=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_instance_normalisation(rank: int) -> None:
    inputs = {"x": data(2, 5, *(6,) * rank), "s": data(5), "b": data(5) * 2}
    model = Single("InstanceNormalization", inputs, constants=["s", "b"], symbolic=False)
    model.check(x=inputs["x"])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalisation(isa: str, opset: int) -> None:
    scales = 3 if opset == 18 else 6
    arrays = [data(2, 6, 4, 5), data(scales), data(scales) * 2]
    check_node(isa, "GroupNormalization", arrays, opset=opset, tolerance=1e-4, num_groups=3)


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("p", [1, 2])
def test_norms(axis: int, p: int) -> None:
    model = Single("LpNormalization", {"x": data(2, 3, 4)}, axis=axis, p=p)
    model.check(x=data(5, 6, 7))
    model.check(x=data(1, 1, 33))


@pytest.mark.parametrize("axes", [None, [2, 3], [1], [0, 2]])
def test_mean_and_variance(axes: list[int] | None) -> None:
    attributes = {} if axes is None else {"axes": axes}
    model = Single("MeanVarianceNormalization", {"x": data(2, 3, 4, 5)}, **attributes)
    model.check(x=data(3, 4, 6, 7))


@pytest.mark.parametrize("shape", [(3, 7), (3, 7, 5), (2, 7, 4, 6)])
def test_batch_normalisation(shape: tuple[int, ...]) -> None:
    x = data(*shape)
    statistics = {"s": data(7), "b": data(7) * 2, "m": data(7) - 1, "v": np.abs(data(7)) + 0.1}
    Single(
        "BatchNormalization",
        {"x": x, **statistics},
        constants=list(statistics),
        symbolic=False,
    ).check(x=x)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_local_response(size: int) -> None:
    model = Single("LRN", {"x": data(1, 2, 3, 4)}, size=size, alpha=0.02, beta=0.6, bias=1.5)
    if size % 2:
        model.check(x=data(2, 9, 5, 7))
        return
    # onnxruntime takes odd sizes only, the reference does as many channels as there are images.
    x = data(9, 9, 5, 7)
    wanted = ReferenceEvaluator(model.bytes).run(None, {"x": x})
    np.testing.assert_allclose(model.run(x=x)[0], wanted[0], rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_alone_give_the_same_bytes(isa: str) -> None:
    inputs = {"x": data(5, 3, 50), "s": data(50)}
    model = Single("LayerNormalization", inputs, constants=["s"], isa=isa)
    whole = model.run(x=inputs["x"])[0]
    assert whole[2:3].tobytes() == model.run(x=inputs["x"][2:3])[0].tobytes()
