from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.lowering import NoKernel
from tests.engine.harness import ISAS
from tests.engine.lowered import lower_node
from tests.engine.plan.lower.test_views import ints, numbered

DTYPES = [np.float32, np.float64, np.int8, np.float16]


def padded(isa: str, x: Any, pads: list[tuple[int, int]], mode: str, pieces: int) -> None:
    given_pads = ints(*(b for b, _ in pads), *(a for _, a in pads))
    fill = np.array(7, x.dtype)
    sides = zip(pads, x.shape, strict=True)
    cropped = x[tuple(slice(max(0, -b), n + min(a, 0)) for (b, a), n in sides)]
    positive = [(max(b, 0), max(a, 0)) for b, a in pads]
    extra: dict[str, Any] = {"constant_values": fill} if mode == "constant" else {}
    expected = np.pad(cropped, positive, mode=mode, **extra)  # type: ignore[call-overload]
    arrays = [x, given_pads, fill]
    results, status = lower_node(
        isa, "Pad", arrays, [expected], known=(1, 2), pieces=pieces, mode=mode
    )
    assert status == 0
    np.testing.assert_array_equal(results[0], expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_constant(isa: str, dtype: Any, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    pads = [(data.draw(st.integers(-1, 3)), data.draw(st.integers(-1, 3))) for _ in shape]
    pads = [p if n > 1 else (max(p[0], 0), max(p[1], 0)) for p, n in zip(pads, shape, strict=True)]
    padded(isa, numbered(shape, dtype), pads, "constant", data.draw(st.integers(1, 3)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_borders_from_inside(isa: str, mode: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    pads = [(data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))) for _ in shape]
    x = numbered(shape, data.draw(st.sampled_from(DTYPES)))
    padded(isa, x, pads, mode, data.draw(st.integers(1, 3)))


def test_older_versions_and_axes() -> None:
    x = numbered((2, 3))
    expected = np.pad(x, [(0, 0), (1, 2)], constant_values=2.5)
    results, _ = lower_node(ISAS[-1], "Pad", [x], [expected], opset=2, pads=[0, 1, 0, 2], value=2.5)
    np.testing.assert_array_equal(results[0], expected)
    arrays = [x, ints(1, 2), np.array(2.5, np.float32), ints(-1)]
    results, _ = lower_node(ISAS[-1], "Pad", list(arrays), [expected], known=(1, 2, 3))
    np.testing.assert_array_equal(results[0], expected)


def test_pads_of_a_run_fall_back() -> None:
    x = numbered((2, 3))
    with pytest.raises(NoKernel, match="pads"):
        lower_node(ISAS[-1], "Pad", [x, ints(0, 0, 1, 1)], [np.pad(x, [(0, 1), (0, 1)])])
