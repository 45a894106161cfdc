"""Attention as exporters write it, recognised and computed like onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import engine
from engine.graph.passes import attention, standard_attention
from tests.engine.graph.support import (
    FLOAT,
    after,
    build,
    node,
    operators,
    run_oracle,
    value,
)

SHAPE = ["b", "s", 3, 8]
CONSTANTS: dict[str, np.ndarray[Any, Any]] = {
    "root": np.array(np.sqrt(8), np.float32),
    "quarter": np.array(0.5946, np.float32),
    "zero": np.array(0, np.float32),
    "low": np.array(-1e9, np.float32),
    "one": np.array(1, np.float32),
    "flat": np.array([0, 0, 24], np.int64),
}
ENTER = [
    node("Transpose", ["q"], ["qh"], perm=[0, 2, 1, 3]),
    node("Transpose", ["k"], ["kt"], perm=[0, 2, 3, 1]),
    node("Transpose", ["v"], ["vh"], perm=[0, 2, 1, 3]),
]
LEAVE = [
    node("MatMul", ["p", "vh"], ["o"]),
    node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
    node("Reshape", ["ot", "flat"], ["y"]),
]
BERT = [
    node("MatMul", ["qh", "kt"], ["s"]),
    node("Div", ["s", "root"], ["sd"]),
    node("Add", ["sd", "mask"], ["sm"]),
    node("Softmax", ["sm"], ["p"], axis=-1),
]
TORCH = [
    node("Mul", ["qh", "quarter"], ["qs"]),
    node("Mul", ["kt", "quarter"], ["ks"]),
    node("MatMul", ["qs", "ks"], ["s"]),
    node("Add", ["s", "mask"], ["sm"]),
    node("Softmax", ["sm"], ["p0"], axis=-1),
    node("IsNaN", ["p0"], ["nan"]),
    node("Where", ["nan", "zero", "p0"], ["p"]),
]
TENSORFLOW = [
    node("Mul", ["qh", "quarter"], ["qs"]),
    node("MatMul", ["qs", "kt"], ["s"]),
    node("Sub", ["one", "mask"], ["inverted"]),
    node("Mul", ["inverted", "low"], ["penalty"]),
    node("Add", ["penalty", "s"], ["sm"]),
    node("Softmax", ["sm"], ["p"], axis=3),
]
WHERE = [
    node("Less", ["mask", "zero"], ["hidden"]),
    node("MatMul", ["qh", "kt"], ["s"]),
    node("Div", ["s", "root"], ["sd"]),
    node("Where", ["hidden", "low", "sd"], ["sm"]),
    node("Softmax", ["sm"], ["p"], axis=-1),
]
WRITINGS = {"bert": BERT, "torch": TORCH, "tensorflow": TENSORFLOW, "where": WHERE}


def model(parts: list[Any], mask: list[str | int | None]) -> onnx.ModelProto:
    inputs = [value(name, SHAPE) for name in "qkv"] + [value("mask", mask)]
    outputs = [value("y", ["b", "s", 24])]
    return build([*ENTER, *parts, *LEAVE], inputs, outputs, CONSTANTS, opset=18)


def feed(batch: int, length: int, mask: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        name: rng.standard_normal((batch, length, 3, 8), dtype=np.float32) for name in "qkv"
    }
    hidden = np.where(rng.random(mask) < 0.3, -1e9, 0).astype(np.float32)
    hidden[..., 0] = 0
    return {**arrays, "mask": hidden}


def compare(model: onnx.ModelProto, arrays: Mapping[str, Any], threads: int = 2) -> Any:
    session = engine.load(model.SerializeToString(), threads=threads)
    assert session.stats()["fallback_segments"] == 0
    results = list(session.run(arrays).values())
    for result, wanted in zip(results, run_oracle(model, arrays), strict=True):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(wanted))
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 + 1e-4 * np.nanmax(wanted))
    return session


@pytest.mark.parametrize("writing", WRITINGS)
def test_writings(writing: str) -> None:
    made = model(WRITINGS[writing], ["b", 1, 1, "s"])
    graph, _ = after(made, [attention])
    assert "packhorse.Attention" in operators(graph)
    session = compare(made, feed(2, 9, (2, 1, 1, 9)))
    assert [o.op for o in session.explain().operations if o.kernel == "attention"]
    compare(made, feed(1, 70, (1, 1, 1, 70)))


@pytest.mark.parametrize("shape", [["b", 3, "s", "s"], [1, 1, "s", "s"], ["b", 1, "s", 1]])
def test_masks_per_query(shape: list[str | int | None]) -> None:
    sizes = {"b": 2, "s": 21}
    actual = tuple(sizes.get(str(d), d) for d in shape)
    compare(model(BERT, shape), feed(2, 21, actual))  # type: ignore[arg-type]


def test_a_batch_gives_the_bytes_of_its_rows() -> None:
    made = model(BERT, ["b", 1, 1, "s"]).SerializeToString()
    arrays = feed(5, 40, (5, 1, 1, 40))
    together = engine.load(made, threads=2).run(arrays)["y"]
    single = engine.load(made, threads=1)
    for row in range(5):
        alone = single.run({k: v[row : row + 1] for k, v in arrays.items()})["y"]
        assert alone.tobytes() == together[row : row + 1].tobytes()


def test_no_transpose_is_left() -> None:
    session = engine.load(model(BERT, ["b", 1, 1, "s"]).SerializeToString(), threads=1)
    kernels = [o.kernel for o in session.explain().operations]
    assert all(not name.startswith("copy") for name in kernels)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([*BERT, node("Neg", ["p"], ["other"])], "the probabilities have other readers"),
        ([*BERT, node("Neg", ["s"], ["other"])], "the scores have other readers"),
        ([*BERT[:2], node("Add", ["sd", "odd"], ["sm"]), BERT[3]], "not proven"),
    ],
)
def test_near_misses_say_why(parts: list[Any], reason: str) -> None:
    inputs = [value(name, SHAPE) for name in "qkv"]
    inputs += [value("mask", ["b", 1, 1, "s"]), value("odd", ["b", 1, 1, "t"])]
    outputs = [value("y", ["b", "s", 24])]
    if any("other" in part.output for part in parts):
        outputs.append(value("other", None))
    graph, reports = after(build([*ENTER, *parts, *LEAVE], inputs, outputs, CONSTANTS), [attention])
    assert "packhorse.Attention" not in operators(graph)
    assert reason in " ".join(reports[0].notes)


def standard(inputs: dict[str, Any], **attributes: Any) -> onnx.ModelProto:
    names = [name if name in inputs else "" for name in ("q", "k", "v", "mask", "pk", "pv")]
    while not names[-1]:
        names.pop()
    outputs = ["y", "present_key", "present_value"] if "pk" in inputs else ["y"]
    kinds = {name: FLOAT if a.dtype == np.float32 else 9 for name, a in inputs.items()}
    given = [value(n, list(a.shape), kinds[n]) for n, a in inputs.items()]
    call = node("Attention", names, outputs, **attributes)
    return build([call], given, [value(name, None) for name in outputs], opset=23)


@pytest.mark.parametrize("rank", [3, 4])
def test_a_scale_by_a_size_that_is_open_is_computed(rank: int) -> None:
    axes = [f"a{axis}" for axis in range(rank)]
    heads = {"q_num_heads": 2, "kv_num_heads": 2} if rank == 3 else {}
    given = [value(name, axes) for name in "qkv"]
    call = node("Attention", list("qkv"), ["y"], **heads)
    made = build([call], given, [value("y", None)], opset=23)
    graph, report = after(made, [standard_attention])
    assert "packhorse.Attention" not in operators(graph)
    assert "size of a head, which is open" in str(report)
    rng = np.random.default_rng(0)
    shape = (2, 5, 8) if rank == 3 else (2, 2, 5, 8)
    compare(made, {name: rng.standard_normal(shape, dtype=np.float32) for name in "qkv"})


def test_standard_operator() -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape, dtype=np.float32)

    heads = {"q": normal(2, 4, 5, 8), "k": normal(2, 2, 7, 8), "v": normal(2, 2, 7, 6)}
    flat = {"q": normal(2, 5, 32), "k": normal(2, 5, 32), "v": normal(2, 5, 32)}
    past = {"pk": normal(2, 2, 3, 8), "pv": normal(2, 2, 3, 6)}
    mask = {"mask": rng.random((5, 7)) < 0.8}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (heads, {}),
        (heads | past, {"is_causal": 1}),
        (heads | mask, {"scale": 0.2, "softcap": 2.0}),
        (flat, {"q_num_heads": 4, "kv_num_heads": 4, "is_causal": 1}),
    ]
    for arrays, attributes in cases:
        made = standard(arrays, **attributes)
        graph, _ = after(made, [standard_attention])
        assert "packhorse.Attention" in operators(graph)
        compare(made, arrays)
