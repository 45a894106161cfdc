from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ModelNotFoundError, RepositoryError
from cluster.repository import Repository
from tests.cluster import small_models

MODEL = small_models.identity()


def found(root: Path) -> dict[str, list[int]]:
    entries = Repository(root).scan()
    return {name: sorted(entry.versions) for name, entry in entries.items()}


def test_names_with_numbered_versions(tmp_path: Path):
    small_models.store(tmp_path, "a", MODEL, 1)
    small_models.store(tmp_path, "a", MODEL, 12)
    small_models.store(tmp_path, "b", MODEL, 3)
    (tmp_path / "a" / "draft").mkdir()
    (tmp_path / "a" / "0").mkdir()
    (tmp_path / "notes.txt").write_text("not a model")
    assert found(tmp_path) == {"a": [1, 12], "b": [3]}


def test_a_single_file(tmp_path: Path):
    path = small_models.store(tmp_path, "a", MODEL).rename(tmp_path / "digits.onnx")
    assert found(path) == {"digits": [1]}


def test_a_single_file_is_configured_by_the_file_beside_it(tmp_path: Path):
    path = small_models.store(tmp_path, "a", MODEL).rename(tmp_path / "digits.onnx")
    (tmp_path / "digits.yaml").write_text("max_batch_size: 3")
    assert Repository(path).entry("digits").config().max_batch_size == 3


def test_a_single_file_may_be_a_link(tmp_path: Path):
    (tmp_path / "b").mkdir()
    link = tmp_path / "b" / "digits.onnx"
    link.symlink_to(small_models.store(tmp_path / "a", "a", MODEL))
    assert found(link) == {"digits": [1]}


def test_a_single_file_with_the_usual_name_is_named_after_its_folder(tmp_path: Path):
    assert found(small_models.store(tmp_path, "digits", MODEL, 3)) == {"digits": [1]}
    assert found(small_models.store(tmp_path / "sub", "x", MODEL).parent) == {"x": [1]}
    path = small_models.store(tmp_path, "bad name", MODEL)
    assert found(path) == {"model": [1]}


def test_a_folder_with_one_model_is_named_after_the_folder(tmp_path: Path):
    small_models.store(tmp_path, "a", MODEL).rename(tmp_path / "a" / "model.onnx")
    assert found(tmp_path / "a") == {"a": [1]}
    assert found(tmp_path) == {"a": [1]}


def test_a_folder_of_files(tmp_path: Path):
    for name in ("pnet", "rnet"):
        small_models.store(tmp_path, "x", MODEL).rename(tmp_path / f"{name}.onnx")
    assert found(tmp_path) == {"pnet": [1], "rnet": [1]}


def test_a_folder_with_only_version_folders(tmp_path: Path):
    small_models.store(tmp_path, "a", MODEL, 2)
    assert found(tmp_path / "a") == {"a": [2]}


def test_a_single_model_may_be_renamed(tmp_path: Path):
    path = small_models.store(tmp_path, "a", MODEL).rename(tmp_path / "my model.onnx")
    with pytest.raises(RepositoryError, match="cannot be a model name"):
        Repository(path)
    assert list(Repository(path, name="mine").scan()) == ["mine"]


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-dash", "", "a b", "x" * 129])
def test_unusable_names(tmp_path: Path, name: str):
    path = small_models.store(tmp_path, "a", MODEL)
    with pytest.raises(RepositoryError, match="cannot be a model name"):
        Repository(path, name=name)


@pytest.mark.parametrize(
    "name", ["../a", "..", "a/../a", "/etc/passwd", "a/1", "", "a\0", "%2e%2e/a"]
)
def test_a_name_from_a_request_never_becomes_a_path(tmp_path: Path, name: str):
    small_models.store(tmp_path / "inside", "a", MODEL)
    small_models.store(tmp_path, "a", MODEL)
    with pytest.raises(ModelNotFoundError):
        Repository(tmp_path / "inside").entry(name)


def test_links_out_of_the_repository_are_refused(tmp_path: Path):
    outside = small_models.store(tmp_path / "outside", "secret", MODEL)
    root = tmp_path / "root"
    small_models.store(root, "good", MODEL)
    (root / "file" / "1").mkdir(parents=True)
    (root / "file" / "1" / "model.onnx").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent.parent)
    (root / "version").mkdir()
    (root / "version" / "1").symlink_to(outside.parent)
    repository = Repository(root)
    assert list(repository.scan()) == ["good"]
    assert sorted(repository.problems) == ["file", "folder", "version"]
    with pytest.raises(ModelNotFoundError, match="symbolic link"):
        repository.entry("file")


def test_links_inside_the_repository_are_fine(tmp_path: Path):
    path = small_models.store(tmp_path, "a", MODEL, 1)
    (tmp_path / "a" / "2").mkdir()
    (tmp_path / "a" / "2" / "model.onnx").symlink_to(path)
    assert found(tmp_path) == {"a": [1, 2]}


def test_a_configuration_out_of_the_repository_is_not_read(tmp_path: Path):
    (tmp_path / "secret.yaml").write_text("max_batch_size: 3")
    small_models.store(tmp_path / "root", "a", MODEL)
    (tmp_path / "root" / "a" / "model.yaml").symlink_to(tmp_path / "secret.yaml")
    assert Repository(tmp_path / "root").entry("a").config().max_batch_size is None


def test_nothing_to_serve(tmp_path: Path):
    with pytest.raises(RepositoryError, match="nothing to serve"):
        Repository(tmp_path)
    with pytest.raises(RepositoryError, match="no such file"):
        Repository(tmp_path / "absent")
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(RepositoryError, match=r"not a \.onnx file"):
        Repository(tmp_path / "model.txt")


def test_a_model_folder_that_is_no_file(tmp_path: Path):
    (tmp_path / "a" / "1" / "model.onnx").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="not a regular file"):
        Repository(tmp_path)


def test_configuration_chooses_versions(tmp_path: Path):
    for version in (1, 2, 5):
        small_models.store(tmp_path, "a", MODEL, version)
    config = tmp_path / "a" / "model.yaml"

    def wanted(text: str) -> list[int]:
        config.write_text(text)
        entry = Repository(tmp_path).entry("a")
        return sorted(entry.wanted(entry.config()))

    assert wanted("") == [5]
    assert wanted("versions: latest") == [5]
    assert wanted("versions: all") == [1, 2, 5]
    assert wanted("versions: [1, 5]") == [1, 5]
    with pytest.raises(RepositoryError, match=r"\[3\].*has \[1, 2, 5\]"):
        wanted("versions: [1, 3]")
    with pytest.raises(RepositoryError, match="none"):
        wanted("versions: []")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batchsize: 4", "max_batchsize.*allowed keys: max_batch_size"),
        ("max_batch_size: 0", "max_batch_size"),
        ("max_batch_size: yes", "max_batch_size"),
        ("max_batch_size: '4'", "max_batch_size"),
        ("warmup: [{x: [-1]}]", "warmup"),
        ("- a list", "mapping"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: " + "[" * 600, "not valid YAML"),
        ("#" * (1 << 21), "larger than"),
    ],
)
def test_configuration_errors_say_where_and_what(tmp_path: Path, text: str, message: str):
    small_models.store(tmp_path, "a", MODEL)
    (tmp_path / "a" / "model.yaml").write_text(text)
    with pytest.raises(RepositoryError, match=message) as error:
        Repository(tmp_path).entry("a").config()
    assert "model.yaml" in str(error.value)
