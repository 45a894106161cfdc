"""Rows that are proven independent give the same results apart and together in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from engine.errors import ModelError
from engine.graph.batching import BatchAxis, batch_axis
from engine.graph.inference import infer
from engine.graph.reader import read

HEADER = '<ir_version: 9, opset_import: ["" : 18]>\n'
LENGTHS = {"sequence": 7, "sequence_length": 512, "M1": 40, "M2": 52}
VALUES = {"bytes": 257, "input_ids": 30000}


def analyse(model: str | bytes | Path) -> BatchAxis:
    if isinstance(model, str):
        model = parser.parse_model(HEADER + model).SerializeToString()
    graph = read(model)
    infer(graph)
    return batch_axis(graph)


def rows_agree(model: bytes, feeds: dict[str, Any]) -> bool:
    """Whether onnxruntime gives every row the same result alone as in the batch."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    together = session.run(None, feeds)
    size = len(next(iter(feeds.values())))
    for row in range(size):
        alone = session.run(None, {name: array[row : row + 1] for name, array in feeds.items()})
        for left, right in zip(alone, together, strict=True):
            if left.shape != right[row : row + 1].shape:
                return False
            if not np.allclose(left, right[row : row + 1], 1e-4, 1e-5, equal_nan=True):
                return False
    return True


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(x)", None),
        ("y = Transpose<perm=[1, 0, 2]>(x)", "carries the rows on axis 1"),
        ("t = Transpose<perm=[1, 2, 0]>(x) y = Transpose<perm=[2, 1, 0]>(t)", None),
        ("y = Softmax<axis=0>(x)", "(Softmax) normalises over the batch"),
        ("y = ReduceMean<keepdims=1>(x)", "(ReduceMean) reduces over the batch"),
        ("y = Flatten(x)", None),
        ("s = Constant<value_ints=[-1, 3]>() y = Reshape(x, s)", "carries the rows"),
        ("s = Constant<value_ints=[-1, 4, 6, 1]>() y = Reshape(x, s)", None),
        (
            "s = Constant<value_ints=[-1, 6]>() t = Constant<value_ints=[-1, 4, 6]>() "
            "r = Reshape(x, s) m = Softmax(r) y = Reshape(m, t)",
            None,
        ),
        (
            "s = Constant<value_ints=[4, -1, 6]>() t = Constant<value_ints=[-1, 4, 6]>() "
            "r = Reshape(x, s) y = Reshape(r, t)",
            "(Reshape) moves elements between rows",
        ),
        ("y = MatMul(x, w)", None),
        ("t = Transpose<perm=[1, 2, 0]>(x) y = MatMul(x, t)", "different axes of the batch"),
        ("t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(x, t)", None),
        (
            "t = Transpose<perm=[1, 2, 0]>(x) u = Transpose<perm=[1, 0, 2]>(x) y = MatMul(t, u)",
            "sums over the batch",
        ),
        (
            "s = Shape<start=0, end=1>(x) n = Cast<to=1>(s) y = Div(x, n)",
            "size of the batch",
        ),
        (
            "z = Constant<value=int64 {0}>() o = Constant<value=int64 {1}>() "
            "s = Shape<start=0, end=1>(x) n = Squeeze(s) r = Range(z, n, o) y = Gather(x, r)",
            None,
        ),
        (
            "z = Constant<value=int64 {0}>() o = Constant<value=int64 {1}>() "
            "s = Shape<start=0, end=1>(x) n = Squeeze(s) r = Range(z, n, o) m = Sub(n, r) "
            "p = Sub(m, o) y = Gather(x, p)",
            "position of a row",
        ),
        ("s = Shape(x) f = ConstantOfShape(s) y = Add(x, f)", None),
        ("s = Shape(x) f = ConstantOfShape(s) y = Concat<axis=0>(x, f)", "joins along the batch"),
        ("q, a, b = DynamicQuantizeLinear(x) y = DequantizeLinear(q, a, b)", "not known to keep"),
        ("y = ReduceSum<keepdims=0>(w)", "does not depend"),
        (
            "p = Constant<value_ints=[1, 0, 0, 0, 0, 0]>() y = Pad(x, p)",
            "pads the batch",
        ),
        ("p = Constant<value_ints=[0, 1, 0, 0, 0, 0]>() y = Pad(x, p)", None),
        ("i = Constant<value_ints=[0]>() y = Gather<axis=0>(x, i)", "picks rows"),
        ("i = Constant<value_ints=[1]>() y = Gather<axis=1>(x, i)", None),
        (
            "b = Constant<value_ints=[1]>() e = Constant<value_ints=[9999999999]>() "
            "a = Constant<value_ints=[0]>() y = Slice(x, b, e, a)",
            "cuts the batch",
        ),
        (
            "b = Constant<value_ints=[-1]>() e = Constant<value_ints=[-9999999999]>() "
            "a = Constant<value_ints=[0]>() s = Constant<value_ints=[-1]>() "
            "y = Slice(x, b, e, a, s)",
            "cuts the batch",
        ),
    ],
)
def test_examples(body: str, expected: str | None) -> None:
    found = analyse(
        f"g (float[N, 4, 6] x) => (y) <float[6, 5] w = {{{'1.0,' * 29}1.0}}> {{ {body} }}"
    )
    assert found.symbol == "N"
    assert found.independent == (expected is None), found.reason
    assert expected is None or expected in found.reason


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("g (float[2, 4] x) => (y) { y = Relu(x) }", "has the size 2"),
        ("g (float x) => (y) { y = Relu(x) }", "no axis 0"),
        ("g (float[N, 4] x, float[M, 4] z) => (y) { y = Add(x, z) }", "is M"),
        ("g (float[N, 4] x, float[4] z) => (y) { y = Add(x, z) }", "has the size 4"),
        ("g (float[N, N] x) => (y) { y = Relu(x) }", "on axis 1"),
        ("g (float[N, 4] x) => (y, z) { y = Relu(x) z = ReduceSum(x) }", "(ReduceSum)"),
    ],
)
def test_models_without_a_common_batch_axis(graph: str, reason: str) -> None:
    found = analyse(graph)
    assert not found.independent
    assert reason in found.reason


def _chain(draw: Any) -> list[onnx.NodeProto]:
    """A chain of operators that often, but not always, keeps rows apart."""
    nodes: list[onnx.NodeProto] = []
    rank, last = 3, "x"

    def emit(op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(nodes)}_{index}" for index in range(outputs)]
        nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[draw(st.integers(0, outputs - 1))]

    def ints(*values: int) -> str:
        name = f"c{len(nodes)}"
        tensor = numpy_helper.from_array(np.array(values, np.int64))
        nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    for _ in range(draw(st.integers(1, 5))):
        axis = draw(st.integers(0, rank - 1))
        kind = draw(st.integers(0, 15))
        if kind == 0:
            last = emit("Transpose", last, perm=draw(st.permutations(range(rank))))
        elif kind == 1:
            keep = draw(st.integers(0, 1)) if rank > 2 else 1
            last = emit("ReduceSum", last, ints(axis), keepdims=keep)
            rank -= 1 - keep
        elif kind == 2:
            last = emit("Softmax", last, axis=axis)
        elif kind == 3:
            last, rank = emit("Flatten", last, axis=axis), 2
        elif kind == 4 and rank < 5:
            last = emit("Unsqueeze", last, ints(axis))
            rank += 1
        elif kind == 5:
            last = emit("Concat", last, last, axis=axis)
        elif kind == 6:
            last = emit("CumSum", last, ints(axis))
        elif kind == 7:
            last = emit("Gather", last, ints(0), axis=axis)
        elif kind == 8:
            other = emit("ReduceMax", last, ints(axis), keepdims=1)
            last = emit("Sub", last, other)
        elif kind == 9:
            order = [*range(rank - 2), rank - 1, rank - 2]
            last = emit("MatMul", last, emit("Transpose", last, perm=order))
        elif kind == 10:
            last = emit("Slice", last, ints(0), ints(2), ints(axis))
        elif kind == 11:
            pads = [0] * (2 * rank)
            pads[axis] = draw(st.integers(0, 1))
            last = emit("Pad", last, ints(*pads))
        elif kind == 12:
            last = emit("TopK", last, ints(1), axis=axis, outputs=2)
            last = emit("Cast", last, to=TensorProto.FLOAT)
        elif kind == 13:
            last = emit("Reshape", last, ints(0, -1))
            rank = 2
        elif kind == 14:
            last = emit("Reshape", last, ints(-1, 4, 6))
            rank = 3
        else:
            shape = emit("Shape", last)
            fill = emit("ConstantOfShape", shape)
            last = emit("Add", emit("Tanh", last), emit("Expand", fill, shape))
    emit("Identity", last)
    return nodes


CHAINS = st.composite(_chain)()


@settings(max_examples=250, deadline=None)
@given(CHAINS, st.integers(0, 2**32 - 1))
def test_proven_rows_do_not_meet(nodes: list[onnx.NodeProto], seed: int) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6])]
    outputs = [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    outputs[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = model.SerializeToString()
    try:
        found = analyse(content)
    except ModelError:
        return
    if found.independent:
        x = np.random.default_rng(seed).standard_normal((3, 4, 6)).astype(np.float32)
        assert rows_agree(content, {"x": x}), found


def _feeds(path: Path, size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    feeds = {}
    for value in read(path).inputs:
        assert value.shape is not None
        shape = [size] + [
            dim.value if dim.is_constant else LENGTHS.get(str(dim), 64) for dim in value.shape[1:]
        ]
        if value.dtype == np.float32:
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        else:
            limit = VALUES.get(value.name, 2)
            feeds[value.name] = generator.integers(0, limit, shape).astype(value.dtype)
    return feeds


@pytest.mark.parametrize(
    "name",
    [
        "basic_pitch/nmp",
        "lprnet/lprnet_from_pth",
        "lprnet/lprnet_int8_qdq",
        "magika_v3_3/model",
        "minilm_l6/model",
        "mtcnn/onet",
        "mtcnn/pnet",
        "mtcnn/rnet",
        "ppocr/ch_PP-OCRv3_det_infer",
        "ppocr/ch_ppocr_mobile_v2.0_cls",
        "resnet_cifar10/resnet20_bn",
        "sat_captcha/model",
        "super_resolution_10/model",
        "tiny_time_mixer/TinyTimeMixer",
        "tree_ensembles/lgbm_classifier_tensor",
    ],
)
def test_real_models_batch(models: Path, name: str) -> None:
    path = models / f"{name}.onnx"
    found = analyse(path)
    assert found.independent, found.reason
    assert rows_agree(path.read_bytes(), _feeds(path, 2))


def test_real_models_that_must_not_batch(models: Path) -> None:
    assert "size 1" in analyse(models / "mnist_8/model.onnx").reason
    assert "'state'" in analyse(models / "silero_vad/silero_vad_16k_op15.onnx").reason
