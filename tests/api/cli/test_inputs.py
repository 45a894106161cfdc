"""Inputs from files and arguments."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from api.cli.errors import CommandError, UsageError
from api.cli.images import Fit
from api.cli.inputs import parse_shapes, random_inputs, read_inputs
from engine import TensorSpec


def session(**inputs: tuple[str, tuple[int | str, ...]]) -> Any:
    specs = (TensorSpec(name, np.dtype(kind), shape) for name, (kind, shape) in inputs.items())
    return SimpleNamespace(inputs=tuple(specs))


ONE = session(x=("f4", ("N", 2)))
TWO = session(a=("f4", ("N", 2)), b=("i8", ("N",)))


def read(model: Any, *arguments: str) -> dict[str, Any]:
    arrays = read_inputs(model, arguments, Fit())
    return {name: (array.dtype.str, array.tolist()) for name, array in arrays.items()}


def test_npy_for_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x=1.npy", np.ones((1, 2), "f4"))
    assert read(ONE, str(tmp_path / "x=1.npy")) == {"x": ("<f4", [[1, 1]])}


def test_npz_names_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", a=np.ones((1, 2), "f4"), b=np.array([3]))
    assert read(TWO, str(tmp_path / "all.npz")) == {"a": ("<f4", [[1, 1]]), "b": ("<i8", [3])}


@pytest.mark.parametrize(
    "content",
    [
        {"a": [[1, 2]], "b": [3]},
        {
            "inputs": [
                {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
                {"name": "b", "shape": [1], "datatype": "INT64", "data": [3]},
            ]
        },
    ],
)
def test_json_objects_and_request_bodies(tmp_path: Path, content: object) -> None:
    (tmp_path / "body.json").write_text(json.dumps(content))
    found = read(TWO, str(tmp_path / "body.json"))
    assert found == {"a": ("<f4", [[1, 2]]), "b": ("<i8", [3])}


def test_strings_from_json(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text('["one", "two"]')
    words = session(x=("O", ("N",)))
    assert read(words, str(tmp_path / "words.json")) == {"x": ("|O", ["one", "two"])}


def test_files_for_one_input_are_joined(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("two", 2)):
        np.save(tmp_path / f"{name}.npy", np.full((1, 2), value, "f4"))
    found = read(ONE, f"x={tmp_path / 'one.npy'}", f"x={tmp_path / 'two.npy'}")
    assert found == {"x": ("<f4", [[1, 1], [2, 2]])}


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("x.json", b"[[1, 2], [3]]", "lists differ in length"),
        ("x.json", b"[[1, ", "x.json"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.json", b'{"inputs": [1]}', "needs `name`"),
        ("x.json", b'{"inputs": [{"name": "x", "shape": [3], "data": [1]}]}', "do not fill"),
        ("x.npy", b"not an array", "x.npy"),
        ("x.npz", b"not an archive", "x.npz"),
        ("x.npy", b"", "x.npy"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, advice: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CommandError, match=advice):
        read(ONE, str(tmp_path / name))


def test_pickles_are_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(CommandError, match="pickle"):
        read(ONE, str(tmp_path / "x.npy"))


def test_names_are_needed_where_there_are_several_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2), "f4"))
    with pytest.raises(UsageError, match=r"--input NAME=.*'a' float32\[N, 2\]"):
        read(TWO, str(tmp_path / "a.npy"))
    with pytest.raises(UsageError, match="no input 'c'"):
        read(TWO, f"c={tmp_path / 'a.npy'}")


def test_files_that_cannot_be_joined(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones((1, 2), "f4"))
    np.save(tmp_path / "two.npy", np.ones((1, 3), "f4"))
    with pytest.raises(UsageError, match="cannot be joined"):
        read(ONE, str(tmp_path / "one.npy"), str(tmp_path / "two.npy"))


def test_shapes() -> None:
    shapes = parse_shapes(["x=1x3x224x224", "a=b=2", "s=scalar"])
    assert shapes == {"x": (1, 3, 224, 224), "a=b": (2,), "s": ()}


@pytest.mark.parametrize("text", ["x", "x=", "x=1x", "x=axb", "x=-1", "=1x2x"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="name=1x3x224x224"):
        parse_shapes([text])


def test_random_inputs() -> None:
    model = session(
        x=("f4", ("N", 64)), ids=("i8", ("N", "L")), mask=("?", ("N", "L")), level=("f8", ())
    )
    arrays = random_inputs(model, {"ids": (2, 9), "mask": (2, 9), "x": (2, 64)})
    assert {name: array.shape for name, array in arrays.items()} == {
        "x": (2, 64),
        "ids": (2, 9),
        "mask": (2, 9),
        "level": (),
    }
    assert {array.dtype.str for array in arrays.values()} == {"<f4", "<i8", "|b1", "<f8"}
    assert set(np.unique(arrays["ids"])) == {0, 1}
    assert 0.5 < arrays["x"].std() < 2
    assert random_inputs(ONE, {})["x"].shape == (1, 2)
    assert random_inputs(TWO, {}, skip=frozenset({"a"})).keys() == {"b"}


def test_random_inputs_need_sizes_and_numbers() -> None:
    with pytest.raises(UsageError, match="--shape x=1x64x3"):
        random_inputs(session(x=("f4", ("N", "L", 3))), {})
    with pytest.raises(UsageError, match="--input"):
        random_inputs(session(x=("O", (1,))), {})
