import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, helper, numpy_helper

from engine.errors import ModelError
from engine.graph.inference import infer
from engine.graph.reader import read
from engine.graph.verify import verify
from tests.conftest import models_folder
from tests.engine.graph.support import (
    INT64,
    assert_equal,
    build,
    graph_of,
    interpret,
    node,
    normal,
    run_oracle,
    value,
)

REAL = sorted(models_folder().glob("*/*.onnx"))


def relu() -> onnx.ModelProto:
    return build([node("Relu", ["x"], ["y"])], [value("x", ["N", 3])], [value("y", ["N", 3])])


@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_real_models_are_read(path: Path) -> None:
    graph = read(path)
    verify(graph)
    proto = onnx.load(path, load_external_data=False)
    constants = {t.name for t in proto.graph.initializer}
    assert [v.name for v in graph.outputs] == [v.name for v in proto.graph.output]
    assert [v.name for v in graph.inputs] == [
        v.name for v in proto.graph.input if v.name not in constants
    ]


def test_bytes_path_and_text_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(relu(), path)
    for source in (path, str(path), path.read_bytes()):
        assert [n.op for n in read(source).nodes] == ["Relu"]


def test_names_dims_and_versions() -> None:
    model = build(
        [node("Relu", ["x"], ["a"]), node("Softmax", ["a"], ["y"])],
        [value("x", ["N", None, 3, 0, -1])],
        [value("y", None)],
        opset=12,
    )
    graph = graph_of(model)
    assert [str(d) for d in graph.inputs[0].shape or ()] == [
        "N",
        "x_dim_1",
        "3",
        "x_dim_3",
        "x_dim_4",
    ]
    assert [(n.op, n.version) for n in graph.nodes] == [("Relu", 6), ("Softmax", 11)]
    assert graph.opsets == {"": 12}


def test_meaningless_dim_names_are_not_shared() -> None:
    model = build([node("Relu", ["x"], ["y"])], [value("x", ["?", "?"])], [value("y", ["?", "?"])])
    first, second = graph_of(model).inputs[0].shape or ()
    assert first != second


def test_initialiser_that_is_an_input_is_a_constant() -> None:
    model = build(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", [2]), value("w", [2])],
        [value("y", [2])],
        {"w": np.array([1, 2], np.float32)},
    )
    graph = graph_of(model)
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.nodes[0].inputs[1].data.tolist() == [1, 2]


def test_constant_nodes_become_values() -> None:
    tensor = numpy_helper.from_array(normal(2, 2))
    kinds: list[tuple[dict[str, Any], Any]] = [
        ({"value": tensor}, normal(2, 2)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.0]}, np.array([1.5, 2.0], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
        ({"value_string": "a"}, np.array("a", object)),
        ({"value_strings": ["a", "bc"]}, np.array(["a", "bc"], object)),
    ]
    for attributes, expected in kinds:
        model = build([node("Constant", [], ["y"], **attributes)], [], [value("y", None)])
        graph = graph_of(model)
        assert not graph.nodes
        assert_equal(graph.outputs[0].data, expected)


def test_unsorted_nodes_are_sorted() -> None:
    model = build(
        [node("Add", ["a", "b"], ["y"]), node("Abs", ["a"], ["b"]), node("Relu", ["x"], ["a"])],
        [value("x", [3])],
        [value("y", [3])],
    )
    graph = graph_of(model)
    verify(graph)
    assert [n.op for n in graph.nodes] == ["Relu", "Abs", "Add"]


def branches() -> onnx.ModelProto:
    """If whose branches share value names and read an outer value, one through a nested If."""

    def branch(name: str, op: str) -> Any:
        return helper.make_graph(
            [node(op, ["a"], ["t"]), node("Neg", ["t"], ["r"])], name, [], [value("r", None)]
        )

    inner = node("If", ["c"], ["s"], then_branch=branch("p", "Abs"), else_branch=branch("q", "Exp"))
    nested = helper.make_graph([inner, node("Add", ["s", "k"], ["r"])], "n", [], [value("r", None)])
    return build(
        [
            node("Relu", ["x"], ["a"]),
            node("If", ["c"], ["y"], then_branch=nested, else_branch=branch("e", "Neg")),
        ],
        [value("x", [3]), value("c", [], onnx.TensorProto.BOOL)],
        [value("y", None)],
        {"k": np.ones(3, np.float32)},
    )


@pytest.mark.parametrize("condition", [True, False])
def test_subgraphs_list_what_they_capture(condition: bool) -> None:
    graph = graph_of(branches())
    verify(graph)
    outer = graph.nodes[1]
    then, other = outer.attributes["then_branch"], outer.attributes["else_branch"]
    assert [v.name for v in then.captures] == ["c", "a"]
    assert [v.name for v in other.captures] == ["a"]
    assert [v.name for v in then.nodes[0].attributes["then_branch"].captures] == ["a"]
    feed = {"x": normal(3), "c": np.array(condition)}
    assert_equal(interpret(graph, feed), run_oracle(branches(), feed))


def functions_model() -> onnx.ModelProto:
    def reference(name: str, attribute: str) -> Any:
        return AttributeProto(name=attribute, ref_attr_name=name, type=AttributeProto.FLOAT)

    leaky = node("LeakyRelu", ["p"], ["q"])
    leaky.attribute.append(reference("slope", "alpha"))
    inner = helper.make_function(
        "f", "inner", ["p"], ["q"], [leaky], [helper.make_opsetid("", 17)], ["slope"]
    )
    call = helper.make_node("inner", ["u"], ["t"], domain="f", name="call")
    call.attribute.append(reference("slope", "slope"))
    outer = helper.make_function(
        "f",
        "outer",
        ["u", "v"],
        ["w", "u"],
        [call, node("Clip", ["t", "v"], ["w"])],
        [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)],
        ["slope"],
    )
    nodes = [
        helper.make_node("outer", ["x"], ["a", "same"], domain="f", name="first", slope=0.5),
        helper.make_node("outer", ["a", "low"], ["y"], domain="f", name="second", slope=0.25),
    ]
    return build(
        nodes,
        [value("x", [4])],
        [value("y", [4]), value("same", [4])],
        {"low": np.float32(-0.1)},
        functions=[inner, outer],
        domains=["f"],
    )


def test_functions_are_expanded() -> None:
    model = functions_model()
    graph = graph_of(model)
    verify(graph)
    assert [n.op for n in graph.nodes] == ["LeakyRelu", "Clip", "LeakyRelu", "Clip", "Identity"]
    assert [n.attribute("alpha") for n in graph.nodes if n.op == "LeakyRelu"] == [0.5, 0.25]
    assert [n.outputs[0].name for n in graph.nodes] == ["first/t", "a", "second/t", "y", "same"]
    assert [v.name for v in graph.outputs] == ["y", "same"]
    x = normal(4)
    once = np.where(x < 0, x * np.float32(0.5), x)
    twice = np.where(once < 0, once * np.float32(0.25), once)
    assert_equal(interpret(graph, {"x": x}), [np.maximum(twice, np.float32(-0.1)), x])


def test_recursive_function_is_refused() -> None:
    call = helper.make_node("f", ["p"], ["q"], domain="d")
    function = helper.make_function("d", "f", ["p"], ["q"], [call], [helper.make_opsetid("d", 1)])
    model = build(
        [helper.make_node("f", ["x"], ["y"], domain="d")],
        [value("x", [1])],
        [value("y", [1])],
        functions=[function],
        domains=["d"],
    )
    with pytest.raises(ModelError, match="calls itself"):
        graph_of(model)


def test_exponential_functions_are_refused() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    functions = [
        helper.make_function("d", "f0", ["p"], ["q"], [node("Relu", ["p"], ["q"])], imports)
    ]
    for level in range(1, 40):
        calls = [
            helper.make_node(f"f{level - 1}", ["p"], ["a"], domain="d"),
            helper.make_node(f"f{level - 1}", ["a"], ["q"], domain="d"),
        ]
        functions.append(helper.make_function("d", f"f{level}", ["p"], ["q"], calls, imports))
    model = build(
        [helper.make_node("f39", ["x"], ["y"], domain="d")],
        [value("x", [1])],
        [value("y", [1])],
        functions=functions,
        domains=["d"],
    )
    with pytest.raises(ModelError, match="more than 1000000 nodes"):
        graph_of(model)


def field(number: int, payload: bytes) -> bytes:
    """Length-delimited protobuf field."""
    size, length = len(payload), bytearray()
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + payload


def test_deep_nesting_is_refused() -> None:
    graph = b""
    for _ in range(5000):
        branch = field(1, b"then_branch") + b"\xa0\x01\x05" + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, branch))
    with pytest.raises(ModelError, match="nested"):
        read(b"\x08\x0a" + field(7, graph))


JPEG = bytes.fromhex("ffd8ffe000104a46494600010101006000600000") + b"\x00" * 200

BAD_BYTES = {
    "empty": (b"", "empty"),
    "jpeg": (JPEG, "not an ONNX model"),
    "text": (b"hello world, this is no model", "not an ONNX model"),
    "truncated": (relu().SerializeToString()[:-20], "truncated"),
    "header only": (b"\x08\x0a", "no graph"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes(name: str) -> None:
    data, text = BAD_BYTES[name]
    with pytest.raises(ModelError, match=text):
        read(data)


def bad_models() -> dict[str, tuple[onnx.ModelProto, str]]:
    x, y = value("x", [3]), value("y", [3])

    def one(*nodes: Any, **options: Any) -> onnx.ModelProto:
        return build(list(nodes), [x], [y], **options)

    newer = relu()
    newer.opset_import[0].version = 999
    newer_ir = relu()
    newer_ir.ir_version = 999
    no_import = relu()
    del no_import.opset_import[:]
    no_type = relu()
    no_type.graph.input[0].ClearField("type")
    twice = one(node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"]))
    wrong_attribute = one(node("Softmax", ["x"], ["y"], axis="last"))
    return {
        "cycle": (
            one(
                node("Add", ["x", "b"], ["a"]), node("Abs", ["a"], ["b"]), node("Abs", ["b"], ["y"])
            ),
            r"cycle: .*n_a.* -> .*n_b",
        ),
        "own output": (one(node("Add", ["x", "y"], ["y"])), "its own output"),
        "missing input": (one(node("Add", ["x", "nothing"], ["y"])), "reads 'nothing'"),
        "missing output": (one(node("Abs", ["x"], ["z"])), "output 'y'"),
        "defined twice": (twice, "already defines"),
        "input twice": (build([node("Abs", ["x"], ["y"])], [x, x], [y]), "'x' is defined twice"),
        "unknown operator": (
            one(node("Frobnicate", ["x"], ["y"])),
            "Frobnicate.*no version has it",
        ),
        "operator of a newer opset": (one(node("Gelu", ["x"], ["y"])), "Gelu.*since version 20"),
        "removed operator": (one(node("Upsample", ["x", "x"], ["y"])), "Upsample.*was removed"),
        "unknown domain": (
            one(helper.make_node("Op", ["x"], ["y"], domain="my.domain"), domains=["my.domain"]),
            "my.domain.Op is not in any known operator set",
        ),
        "wrong attribute type": (wrong_attribute, "axis"),
        "missing attribute": (one(node("Cast", ["x"], ["y"])), "'to'"),
        "unknown attribute": (one(node("Relu", ["x"], ["y"], wrong=1)), "wrong"),
        "too many inputs": (one(node("Relu", ["x", "x", "x"], ["y"])), "Relu"),
        "newer opset": (newer, "version 999 is not supported; the newest supported is"),
        "newer IR": (newer_ir, "IR version 999"),
        "no opset": (no_import, "import"),
        "no type": (no_type, "x"),
        "no outputs": (build([node("Abs", ["x"], ["y"])], [x], []), "no outputs"),
    }


@pytest.mark.parametrize("name", bad_models())
def test_bad_models(name: str) -> None:
    model, text = bad_models()[name]
    with pytest.raises(ModelError, match=text):
        graph_of(model)


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="not a regular file"):
        read(tmp_path)
    with pytest.raises(ModelError, match="not a regular file"):
        read("/dev/zero")
    with pytest.raises(ModelError, match="cannot be opened"):
        read("nul\0byte.onnx")


def test_file_too_large_for_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="external data"):
        read(path)


@settings(max_examples=200, deadline=None)
@given(
    model=st.sampled_from([functions_model().SerializeToString(), branches().SerializeToString()]),
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.booleans()),
        min_size=1,
        max_size=8,
    ),
)
def test_damaged_files_never_crash(model: bytes, edits: list[tuple[int, int, bool]]) -> None:
    data = bytearray(model)
    for position, byte, cut in edits:
        index = position % len(data)
        if cut:
            del data[index]
        else:
            data[index] = byte
    with contextlib.suppress(ModelError):
        verify(read(bytes(data)))


@pytest.mark.parametrize("groups", [{"num_groups": 2}, {"num_groups": 0}, {}])
def test_group_normalisation_of_version_18_is_read(groups: dict[str, int]) -> None:
    """Its schema is withdrawn, and so not checked; other runtimes run it."""
    made = node("GroupNormalization", ["x", "s", "s"], ["y"], **groups)
    x = value("x", ["n", 4, 5])
    model = build([made], [x, value("s", [2])], [value("y", None)], opset=18)
    graph = graph_of(model)
    if groups.get("num_groups"):
        assert infer(graph) == []
        return
    with pytest.raises(ModelError, match="num_groups"):
        infer(graph)


def test_sequence_and_optional_inputs_have_kinds() -> None:
    sequence = helper.make_tensor_sequence_value_info("s", INT64, None)
    model = build(
        [node("SequenceAt", ["s", "i"], ["y"])],
        [sequence, value("i", [], INT64)],
        [value("y", None, INT64)],
    )
    graph = graph_of(model)
    assert (graph.inputs[0].kind, graph.inputs[0].dtype) == ("sequence", np.dtype(np.int64))
    assert interpret(graph, {"s": [np.arange(3)], "i": np.int64(0)})[0].tolist() == [0, 1, 2]
