"""Stores of what was measured on a CPU: one entry per instruction set and CPU, as JSON."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from engine.codegen.store import FileStore, default_folder

Content = TypeVar("Content")


class MeasuredStore(FileStore, Generic[Content]):
    """Entries that people can read and carry elsewhere.

    `kind` says in a key what was measured, `version` is raised when that changes in meaning,
    `field` is where an entry holds it, `longest` the most bytes of an entry that is looked at.
    """

    suffix = ".json"
    folder_name: ClassVar[str]
    kind: ClassVar[str]
    version: ClassVar[int]
    field: ClassVar[str]
    longest: ClassVar[int]

    def __init__(self, folder: Path | None, limit: int) -> None:
        super().__init__((folder or default_folder()) / self.folder_name, limit)

    @abstractmethod
    def decode(self, content: Mapping[str, Any]) -> Content:
        """What an entry holds. Raises ValueError or TypeError where anything about it is wrong."""

    def read(self, isa: str, model_name: str) -> Content | None:
        """What was measured on a CPU of this name; None where there is nothing of use."""
        key = self._key(isa, model_name)
        path = self._path(key)
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and path.stat().st_size <= self.longest:
                found = self._decoded(path.read_bytes())
                if found is not None and found[0] == key:
                    self._count("hits")
                    return found[1]
        self._count("misses")
        return None

    def write(self, isa: str, model_name: str, content: Mapping[str, Any]) -> Path | None:
        """Keep an entry; its path, None where the folder cannot be written."""
        whole = {"version": self.version, "cpu": model_name, "isa": isa, self.field: content}
        data = json.dumps(whole, indent=1).encode()
        key = self._key(isa, model_name)
        return self._path(key) if self._write(key, lambda file: file.write(data)) else None

    def verified(self, content: bytes) -> str | None:
        """Key of an entry that can be used, else None."""
        found = self._decoded(content)
        return found[0] if found is not None else None

    def label(self, path: Path) -> tuple[str, str] | None:
        """Key of an entry, and the CPU that it was measured on."""
        with suppress(OSError):
            key = self.verified(path.read_bytes())
            return None if key is None else (key, "\n".join(key.split("\n")[1:]))
        return None

    def _key(self, isa: str, model_name: str) -> str:
        return f"{isa} {self.kind}-{self.version} \n{model_name}"

    def _decoded(self, content: bytes) -> tuple[str, Content] | None:
        """Key and content of an entry; None where anything about it is wrong."""
        try:
            found: dict[str, Any] = json.loads(content)
            if found["version"] != self.version:
                return None
            key = self._key(str(found["isa"]), str(found["cpu"]))
            return key, self.decode(found[self.field])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
