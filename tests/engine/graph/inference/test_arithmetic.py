"""Arithmetic on shapes, alone and in trained models, against what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine.graph.inference import infer
from engine.graph.reader import read
from tests.engine.graph.inference.support import (
    by_name,
    run,
)


def _arithmetic(draw: Any) -> tuple[list[onnx.NodeProto], str]:
    """Shape arithmetic on the dims of x as exporters write it."""
    nodes = [helper.make_node("Shape", ["x"], ["v0"])]
    integers, floats = ["v0"], []
    small = ["v0"]  # so small that float32 holds them exactly

    def emit(op: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def constant(*values: float, dtype: Any = np.int64) -> str:
        return emit("Constant", value=numpy_helper.from_array(np.array(values, dtype)))

    for _ in range(draw(st.integers(1, 8))):
        left, right = draw(st.sampled_from(integers)), draw(st.sampled_from(integers))
        number = draw(st.integers(1, 5))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Min", "Max"]))
            integers.append(emit(operator, left, right))
        elif kind == 1:
            operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max"]))
            integers.append(emit(operator, left, constant(number)))
            if left in small and operator != "Mul":
                small.append(integers[-1])
        elif kind == 2:
            floats.append(emit("Cast", draw(st.sampled_from(small)), to=TensorProto.FLOAT))
        elif kind == 3 and floats:
            scale = draw(st.sampled_from([0.5, 2.0, 0.25, 1.3, 0.7]))
            source = draw(st.sampled_from(floats))
            floats.append(emit("Mul", source, constant(scale, dtype=np.float32)))
        elif kind == 4 and floats:
            source = draw(st.sampled_from(floats))
            floats.append(emit("Div", source, constant(number, dtype=np.float32)))
        elif kind == 5 and floats:
            rounding = draw(st.sampled_from(["Floor", "Ceil", "Identity"]))
            floats.append(emit(rounding, draw(st.sampled_from(floats))))
        elif kind == 6 and floats:
            integers.append(emit("Cast", draw(st.sampled_from(floats)), to=TensorProto.INT64))
        elif kind == 7:
            part = emit("Slice", left, constant(1), constant(3))
            first = emit("Gather", right, constant(0))
            integers.append(emit("Concat", first, part, axis=0))
        elif kind == 8:
            test = emit(draw(st.sampled_from(["Equal", "Less"])), left, constant(number))
            integers.append(emit("Where", test, left, right))
        else:
            # onnxruntime multiplies in float64, which is exact only where the product is small.
            total = emit("ReduceProd", draw(st.sampled_from(small)), keepdims=1)
            integers.append(emit("Concat", total, total, total, axis=0))
    return nodes, integers[-1]


@settings(max_examples=150, deadline=None)
@given(st.composite(_arithmetic)(), st.tuples(*[st.integers(1, 9)] * 3))
def test_shape_arithmetic_equals_onnxruntime(
    program: tuple[list[onnx.NodeProto], str], sizes: tuple[int, ...]
) -> None:
    nodes, result = program
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["A", "B", "C"])],
            [helper.make_tensor_value_info(result, TensorProto.INT64, [3])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    content = model.SerializeToString()
    graph = read(content)
    infer(graph)
    output = graph.outputs[0]
    assume(output.dims is not None)
    values = dict(zip("ABC", sizes, strict=True))
    expected = run(content, {"x": np.zeros(sizes, np.float32)})[0].tolist()
    found = [dim.evaluate(values) for dim in output.dims or ()]
    assert found == expected, onnx.printer.to_text(model)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mtcnn/pnet", {"N": 2, "M1": 37, "M2": 52}),
        ("minilm_l6/model", {"batch": 2, "sequence": 9}),
        ("tiny_time_mixer/TinyTimeMixer", {"batch_size": 2, "sequence_length": 512}),
        ("magika_v3_3/model", {"unk__214": 3}),
        ("sat_captcha/model", {"unk__438": 2}),
        ("ppocr/ch_PP-OCRv3_det_infer", {"x_dim_0": 1, "x_dim_2": 64, "x_dim_3": 96}),
        ("tree_ensembles/lgbm_classifier_tensor", {"batch": 5}),
    ],
)
def test_every_value_of_real_models(models: Path, name: str, sizes: dict[str, int]) -> None:
    path = models / f"{name}.onnx"
    graph = read(path)
    for guard in infer(graph):
        assert guard.left.evaluate(sizes) == guard.right.evaluate(sizes), guard.message
    model = onnx.load(path)
    values = by_name(graph)
    computed = [name for node in model.graph.node for name in node.output if name in values]
    del model.graph.output[:]
    for value_name in computed:
        dtype = values[value_name].dtype
        assert dtype is not None, value_name
        number = helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.output.append(helper.make_tensor_value_info(value_name, number, None))
    feeds = {}
    for value in graph.inputs:
        shape = [dim.evaluate(sizes) for dim in value.shape or ()]
        feeds[value.name] = np.ones(shape, value.dtype)
    for value_name, array in zip(computed, run(model.SerializeToString(), feeds), strict=True):
        value = values[value_name]
        assert value.shape is not None, value_name
        assert tuple(dim.evaluate(sizes) for dim in value.shape) == array.shape, value_name
        if value.dims is not None:
            assert [dim.evaluate(sizes) for dim in value.dims] == array.reshape(-1).tolist()
