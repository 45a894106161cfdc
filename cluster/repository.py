"""The model repository: a folder, read-only to us, that says which models exist.

Layouts, told apart by what is there:

    repository/NAME/VERSION/model.onnx     many models, each with numbered versions
    repository/NAME/model.onnx             the same with a single version, 1
    repository/NAME.onnx                   the same, without a folder of its own
    folder/model.onnx                      one model, named after the folder
    file.onnx                              one model, named after the file; a `model.onnx` is named
                                           after its folder, or the one above a version folder

`model.yaml` stands beside the version folders (or beside the model file) and configures the model.
A name that arrives in a request is looked up among the names found here and never becomes part of
a path; files that lie outside the repository, through a symbolic link, are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cluster.config import ModelConfig, read_config
from cluster.errors import ModelNotFoundError, RepositoryError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
MODEL_FILE = "model.onnx"
CONFIG_FILE = "model.yaml"


@dataclass(frozen=True, slots=True)
class RepositoryEntry:
    """One model of the repository: where its versions and its configuration lie."""

    name: str
    versions: dict[int, Path]
    config_path: Path | None

    def config(self) -> ModelConfig:
        """The model's configuration; raises `RepositoryError`."""
        return read_config(self.config_path) if self.config_path is not None else ModelConfig()

    def wanted(self, config: ModelConfig) -> dict[int, Path]:
        """The versions that `config` asks to serve; raises `RepositoryError` if one is missing."""
        if config.versions == "all":
            return dict(self.versions)
        if config.versions == "latest":
            latest = max(self.versions)
            return {latest: self.versions[latest]}
        missing = [version for version in config.versions if version not in self.versions]
        if missing or not config.versions:
            raise RepositoryError(
                f"model '{self.name}': versions {missing or 'none'} asked for in {CONFIG_FILE}, "
                f"the repository has {sorted(self.versions)}"
            )
        return {version: self.versions[version] for version in config.versions}


class Repository:
    """Finds models; looks at the folder anew on every `scan`, so that new files are seen."""

    def __init__(self, root: Path | str, *, name: str | None = None) -> None:
        """Open `root`, a folder or a single `.onnx` file.

        `name` renames the model where `root` holds one model. Raises `RepositoryError` if there
        is nothing to serve.
        """
        self.root = Path(root).absolute()
        self.problems: dict[str, str] = {}
        self._name = name
        if name is not None and not NAME.fullmatch(name):
            raise RepositoryError(_bad_name(name))
        if not self.root.exists():
            raise RepositoryError(f"{root}: no such file or folder")
        folder = self.root if self.root.is_dir() else self.root.parent
        self._real = folder.resolve()
        if not self.scan():
            detail = "; ".join(self.problems.values()) or "no .onnx file found"
            raise RepositoryError(
                f"{root}: nothing to serve: {detail}. Give a .onnx file, a folder with "
                f"{MODEL_FILE}, or a repository NAME/VERSION/{MODEL_FILE}"
            )

    def scan(self) -> dict[str, RepositoryEntry]:
        """Every model by name. What looks like a model but is unusable goes to `problems`."""
        self.problems = {}
        if self.root.is_file():
            entries = [self._file_entry(self.root, _file_name(self.root))]
        elif (single := self._folder_entry(self.root, _folder_name(self.root))) is not None:
            entries = [single]
        else:
            entries = [self._child_entry(child) for child in sorted(self.root.iterdir())]
        found = {entry.name: entry for entry in entries if entry is not None}
        if self._name is not None and len(found) == 1:
            (entry,) = found.values()
            return {self._name: RepositoryEntry(self._name, entry.versions, entry.config_path)}
        if self._name is not None and found:
            raise RepositoryError(
                f"{self.root}: a name can be given only where one model is served"
            )
        return found

    def entry(self, name: str) -> RepositoryEntry:
        """The model called `name`; raises `ModelNotFoundError`."""
        entry = self.scan().get(name)
        if entry is None:
            reason = self.problems.get(name, "the repository has no such model")
            raise ModelNotFoundError(f"model '{name}' not found: {reason}")
        return entry

    def _child_entry(self, child: Path) -> RepositoryEntry | None:
        if child.name.startswith("."):
            return None
        if child.is_dir():
            return self._folder_entry(child, child.name)
        return self._file_entry(child, child.stem) if child.suffix == ".onnx" else None

    def _file_entry(self, path: Path, name: str) -> RepositoryEntry | None:
        if path.suffix != ".onnx":
            self.problems[path.name] = f"{path}: not a .onnx file"
            return None
        if not self._usable(name, path):
            return None
        config = path.with_suffix(".yaml")
        return RepositoryEntry(name, {1: path}, config if self._contained(config) else None)

    def _folder_entry(self, folder: Path, name: str) -> RepositoryEntry | None:
        versions = {
            int(child.name): child / MODEL_FILE
            for child in sorted(folder.iterdir())
            if VERSION.fullmatch(child.name) and (child / MODEL_FILE).exists()
        }
        if (folder / MODEL_FILE).exists():
            versions.setdefault(1, folder / MODEL_FILE)
        if not versions or not all(self._usable(name, path) for path in versions.values()):
            return None
        config = folder / CONFIG_FILE
        return RepositoryEntry(name, versions, config if self._contained(config) else None)

    def _usable(self, name: str, path: Path) -> bool:
        if self._name is None and not NAME.fullmatch(name):
            self.problems[name] = _bad_name(name)
        elif path != self.root and not self._contained(path):
            self.problems[name] = f"{path}: leads out of the repository through a symbolic link"
        elif not path.is_file():
            self.problems[name] = f"{path}: not a regular file"
        else:
            return True
        return False

    def _contained(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._real)


def _file_name(path: Path) -> str:
    """Name of a model given as a file: the file's, unless that says nothing."""
    if path.name != MODEL_FILE:
        return path.stem
    name = _folder_name(path.parent)
    return name if NAME.fullmatch(name) else path.stem


def _folder_name(folder: Path) -> str:
    """Name of a model given as a folder: of a version's folder, the one above."""
    return folder.parent.name if VERSION.fullmatch(folder.name) else folder.name


def _bad_name(name: str) -> str:
    return (
        f"'{name}' cannot be a model name: use letters, digits, '.', '_' and '-', "
        "at most 128 of them, no leading '.' or '-'"
    )
