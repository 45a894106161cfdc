import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engine.errors import ModelError
from engine.graph.ir import Graph
from engine.graph.reader import read
from tests.engine.graph.support import assert_equal, build, interpret, node, normal, value

WEIGHTS = normal(4, 5)


def save(folder: Path, **entries: object) -> Path:
    """Model file whose one initialiser says that its data is external."""
    model = build(
        [node("Add", ["x", "w"], ["y"])],
        [value("x", [4, 5])],
        [value("y", [4, 5])],
        {"w": WEIGHTS},
    )
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, item in entries.items():
        tensor.external_data.add(key=key, value=str(item))
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weights_of(graph: Graph) -> np.ndarray:
    data = graph.nodes[0].inputs[1].data
    assert data is not None
    return data


@pytest.mark.parametrize("offset", [0, 64, 3])
def test_data_is_mapped(tmp_path: Path, offset: int) -> None:
    path = save(tmp_path, location="w.bin", offset=offset, length=WEIGHTS.nbytes)
    (tmp_path / "w.bin").write_bytes(b"\0" * offset + WEIGHTS.tobytes() + b"rest")
    graph = read(path)
    assert_equal(weights_of(graph), WEIGHTS)
    assert_equal(interpret(graph, {"x": WEIGHTS}), [WEIGHTS + WEIGHTS])
    if offset % 4 == 0:
        assert not weights_of(graph).flags.owndata
        assert not weights_of(graph).flags.writeable


def test_unknown_keys_and_missing_length_are_fine(tmp_path: Path) -> None:
    path = save(tmp_path, location="./sub/w.bin", checksum="x", surprise="y")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(WEIGHTS.tobytes())
    assert_equal(weights_of(read(path)), WEIGHTS)


def test_bytes_have_no_external_data(tmp_path: Path) -> None:
    data = save(tmp_path, location="w.bin").read_bytes()
    with pytest.raises(ModelError, match="given as bytes"):
        read(data)


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../outside.bin", "sub/../../outside.bin", "a\\b", "", ".", "..", "a//b", "a/"],
)
def test_locations_outside_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "outside.bin").write_bytes(WEIGHTS.tobytes())
    path = save(tmp_path / "model", location=location)
    with pytest.raises(ModelError, match="not a plain path inside"):
        read(path)


def link_file(folder: Path, outside: Path) -> str:
    (folder / "w.bin").symlink_to(outside / "w.bin")
    return "w.bin"


def link_inside(folder: Path, outside: Path) -> str:
    (folder / "real.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "w.bin").symlink_to("real.bin")
    return "w.bin"


def link_folder(folder: Path, outside: Path) -> str:
    (folder / "sub").symlink_to(outside)
    return "sub/w.bin"


@pytest.mark.parametrize("make", [link_file, link_inside, link_folder])
def test_symbolic_links_are_refused(tmp_path: Path, make: Callable[[Path, Path], str]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "w.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    path = save(folder, location=make(folder, outside))
    with pytest.raises(ModelError, match="symbolic link"):
        read(path)


def test_hard_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    path = save(tmp_path / "model", location="w.bin")
    os.link(tmp_path / "secret.bin", tmp_path / "model" / "w.bin")
    with pytest.raises(ModelError, match="2 hard links"):
        read(path)


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    path = save(tmp_path, location="pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="not a regular file"):
        read(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"initialiser 'w'.*'w.bin' is missing"):
        read(save(tmp_path, location="w.bin"))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"length": WEIGHTS.nbytes + 4}, "need 80"),
        ({"length": 10**18}, "need 80"),
        ({"offset": 4}, "ends at byte 84"),
        ({"offset": 2**62}, "ends at byte"),
        ({"offset": -1}, "not a natural number"),
        ({"offset": "9" * 5000}, "not a natural number"),
        ({"length": "eighty"}, "not a natural number"),
        ({"offset": "٣"}, "not a natural number"),
    ],
)
def test_ranges_must_lie_in_the_file(tmp_path: Path, entries: dict[str, object], text: str) -> None:
    path = save(tmp_path, location="w.bin", **entries)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ModelError, match=text):
        read(path)


def test_empty_file_for_an_empty_tensor(tmp_path: Path) -> None:
    model = build(
        [node("Concat", ["x", "w"], ["y"], axis=0)], [value("x", ["N"])], [value("y", ["M"])]
    )
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[0])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(b"")
    onnx.save(model, tmp_path / "m.onnx")
    assert interpret(read(tmp_path / "m.onnx"), {"x": normal(2)})[0].shape == (2,)
