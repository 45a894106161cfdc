"""Models that mix contributed operators: they run on kernels alone; unknown ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import engine
from engine.errors import ModelError
from tests.engine.equality import assert_equal
from tests.engine.graph.contributed.support import DOMAIN, model_of
from tests.engine.graph.contributed.test_operators import normal
from tests.engine.graph.support import build, run_oracle, value


def test_an_optimised_encoder_runs_natively() -> None:
    width = 16

    def fused(op: str, inputs: list[str], *outputs: str, **attributes: object) -> object:
        return helper.make_node(op, inputs, list(outputs), domain=DOMAIN, **attributes)

    nodes = [
        fused("EmbedLayerNormalization", ["ids", "", "words", "table", "", "g", "b"], "h0", "i"),
        fused("Attention", ["h0", "qkv", "qkv_b", "mask"], "a", num_heads=2),
        fused("FusedMatMul", ["a", "w"], "p", alpha=0.5),
        fused("SkipLayerNormalization", ["p", "h0", "g", "b", "b"], "h1"),
        fused("FusedMatMul", ["h1", "w"], "m"),
        fused("BiasGelu", ["m", "b"], "f"),
        fused("SkipSimplifiedLayerNormalization", ["f", "h1", "g"], "h2"),
        fused("DynamicQuantizeMatMul", ["h2", "q", "s"], "y"),
    ]
    constants = {
        "words": normal((30, width)),
        "table": normal((12, width), 1),
        "g": normal((width,), 2),
        "b": normal((width,), 3),
        "qkv": normal((width, 3 * width), 4, 0.3),
        "qkv_b": normal((3 * width,), 5),
        "w": normal((width, width), 6, 0.3),
        "q": np.random.default_rng(7).integers(-127, 128, (width, width)).astype(np.int8),
        "s": np.array(0.01, np.float32),
    }
    model = build(
        nodes,
        [
            value("ids", ["batch", "length"], TensorProto.INT32),
            value("mask", ["batch", "length"], TensorProto.INT32),
        ],
        [value("y", None), value("h2", None)],
        constants,
        domains=[DOMAIN],
    )
    session = engine.load(model.SerializeToString())
    explained = session.explain()
    assert explained.fallback_count == 0, [f"{o.op}: {o.reason}" for o in explained.fallbacks]
    for batch, length in ((1, 1), (3, 9), (2, 5)):
        rng = np.random.default_rng(batch)
        mask = np.ones((batch, length), np.int32)
        mask[0, length // 2 + 1 :] = 0
        feed = {"ids": rng.integers(0, 30, (batch, length)).astype(np.int32), "mask": mask}
        found = session.run(feed)
        expected = dict(zip(("y", "h2"), run_oracle(model, feed), strict=True))
        assert_equal(found["h2"], expected["h2"])
        # Values next to a rounding boundary of the quantised product may go to either side.
        step = np.abs(expected["h2"]).max() * 2 / 255 * 127 * 0.01
        np.testing.assert_allclose(found["y"], expected["y"], rtol=0, atol=2 * step)


@pytest.mark.parametrize("domain", [DOMAIN, "com.example"])
def test_an_unknown_operator_is_refused_by_name(domain: str) -> None:
    data = model_of("Frobnicate", {"x": normal((2, 2))}, domain=DOMAIN)
    data = data.replace(DOMAIN.encode(), domain.encode().ljust(len(DOMAIN), b"e"))
    with pytest.raises(ModelError, match=r"'node'.*Frobnicate.*export the model") as found:
        engine.load(data)
    assert domain in str(found.value)


def test_an_unsupported_form_is_refused_with_its_reason() -> None:
    inputs = {"x": normal((2, 3, 6)), "w": normal((6, 24), 1), "b": normal((24,), 2)}
    data = model_of("Attention", inputs, num_heads=2, do_rotary=1)
    with pytest.raises(ModelError, match=r"'node'.*Attention.*rotary"):
        engine.load(data)


def test_a_function_of_the_model_goes_before_the_operator_of_that_name() -> None:
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Neg", ["x"], ["y"])]
    function = helper.make_function(DOMAIN, "Gelu", ["x"], ["y"], body, opsets)
    call = helper.make_node("Gelu", ["x"], ["y"], domain=DOMAIN)
    model = build([call], [value("x", [3])], [value("y", [3])], functions=[function])
    x = normal((3,))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    np.testing.assert_array_equal(engine.load(model.SerializeToString()).run({"x": x})["y"], -x)
