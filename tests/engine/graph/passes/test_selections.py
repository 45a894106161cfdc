"""OneHot, Hardmax and Dropout natively, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.single import Single

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize(("kind", "depth"), [(np.int64, np.int64), (np.float32, np.float32)])
def test_one_hot(axis: int, kind: Any, depth: Any) -> None:
    arrays = {
        "indices": RNG.integers(-5, 5, (3, 4)).astype(kind),
        "depth": np.array([5], depth),
        "values": np.array([-1.5, 2.5], np.float32),
    }
    for constants in ((), ("depth", "values")):
        model = Single(
            "OneHot", arrays, constants=constants, fixed=("depth", "values"), axis=axis, opset=11
        )
        model.check(**{name: a for name, a in arrays.items() if name not in constants})


@pytest.mark.parametrize(("opset", "axis"), [(13, -1), (13, 1), (11, 1), (11, 2)])
def test_hardmax(opset: int, axis: int) -> None:
    x = RNG.integers(0, 4, (2, 3, 4)).astype(np.float32)
    model = Single("Hardmax", {"x": x}, opset=opset, axis=axis)
    model.check(x=x)
    model.check(x=x[:1, :, ::-1].copy())


def test_dropout_that_drops_nothing() -> None:
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    Single("Dropout", {"x": x}, outputs=("y", "mask"), opset=13).check(x=x)
    Single("Dropout", {"x": x}, opset=7).check(x=x)
