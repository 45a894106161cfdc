from __future__ import annotations

import numpy as np
import pytest

from cluster.description import ModelDescription, TensorDescription
from engine.errors import InputError

F32 = np.dtype(np.float32)
MODEL = ModelDescription(
    (
        TensorDescription("a", F32, ("N", 3)),
        TensorDescription("b", np.dtype(np.int64), ("N", "L", 2)),
    ),
    (TensorDescription("y", F32, ("N",)),),
    True,
    "",
)


def inputs(a=(2, 3), b=(2, 7, 2), a_type=F32, **more):
    return {"a": np.zeros(a, a_type), "b": np.zeros(b, np.int64), **more}


def test_what_fits_passes():
    MODEL.check("m", inputs())
    MODEL.check("m", inputs(a=(0, 3), b=(0, 0, 2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (inputs(a=(2, 4)), "'a'.* has 4 at axis 1, must be 3"),
        (inputs(a=(2, 3, 1)), "'a'.*3 dimensions, must have 2"),
        (inputs(a=()), "'a'.*0 dimensions"),
        (inputs(a_type=np.float64), "'a'.*float64, must be float32"),
        (inputs(a=(3, 3)), "'b'.*dimension 'N' is 2 at axis 0, but 3 in input 'a'"),
        (inputs(c=np.zeros(1)), "no input 'c'; its inputs are 'a', 'b'"),
        ({"a": np.zeros((2, 3), F32)}, "input 'b' is missing; got 'a'"),
        ({}, "input 'a' is missing; got none"),
    ],
)
def test_what_does_not_fit_is_named(given: dict, message: str):
    with pytest.raises(InputError, match=message) as error:
        MODEL.check("m", given)
    assert "model 'm'" in str(error.value)
