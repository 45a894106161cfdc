"""Softmax models against onnxruntime, with both meanings of `axis`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.harness import ISAS
from tests.engine.single import Single


def data(*shape: int) -> Any:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 4).astype(np.float32)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("opset", "axis"), [(21, -1), (21, 1), (21, 0), (11, 1), (11, 2), (11, -1)]
)
def test_axes_of_both_generations(op: str, opset: int, axis: int) -> None:
    model = Single(op, {"x": data(2, 3, 4)}, opset=opset, axis=axis)
    for shape in ((2, 3, 4), (1, 1, 1), (3, 17, 41), (2, 0, 5)):
        model.check(x=data(*shape))


def test_default_axes() -> None:
    Single("Softmax", {"x": data(2, 3, 4)}).check(x=data(5, 6, 7))
    Single("Softmax", {"x": data(2, 3, 4)}, opset=9).check(x=data(5, 6, 7))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [-1, 1])
def test_rows_alone_give_the_same_bytes(isa: str, axis: int) -> None:
    model = Single("Softmax", {"x": data(2, 3, 4)}, isa=isa, axis=axis)
    x = data(9, 33, 65)
    whole = model.run(x=x)[0]
    assert whole[4:5].tobytes() == model.run(x=x[4:5])[0].tobytes()
