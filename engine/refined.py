"""Schedules that were measured: kept per CPU and instruction set, shared by processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from engine.codegen.store import FileStore, default_folder
from engine.plan.blocks import Blocks

VERSION: Final = 1
"""Raised when blocks or their keys change in meaning."""

_MOST: Final = 4096
"""Products that are remembered; the oldest go first."""

_LONGEST: Final = 1 << 20


class RefinedStore(FileStore):
    """Blocks by the key of a product, one entry per instruction set and CPU, as JSON."""

    suffix = ".json"

    def __init__(self, folder: Path | None = None, limit: int = 4 << 20) -> None:
        super().__init__((folder or default_folder()) / "refined", limit)

    def get(self, isa: str, model_name: str) -> dict[str, Blocks]:
        """What was measured on a CPU of this name; empty where there is nothing of use."""
        key = _key(isa, model_name)
        path = self._path(key)
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and path.stat().st_size <= _LONGEST:
                found = _decoded(path.read_bytes())
                if found is not None and found[0] == key:
                    self._count("hits")
                    return found[1]
        self._count("misses")
        return {}

    def add(self, isa: str, model_name: str, blocks: Mapping[str, Blocks]) -> dict[str, Blocks]:
        """Keep blocks beside those that this and other processes found before; returns all."""
        key = _key(isa, model_name)
        found = self.get(isa, model_name) | dict(blocks)
        kept = dict(list(found.items())[-_MOST:])
        content = {
            "version": VERSION,
            "cpu": model_name,
            "isa": isa,
            "blocks": {name: [each.rows, each.panels] for name, each in kept.items()},
        }
        data = json.dumps(content, indent=1).encode()
        self._write(key, lambda file: file.write(data))
        return kept

    def verified(self, content: bytes) -> str | None:
        """Key of an entry that can be used, else None."""
        found = _decoded(content)
        return found[0] if found is not None else None

    def label(self, path: Path) -> tuple[str, str] | None:
        """Key of an entry, and the CPU that it was measured on."""
        with suppress(OSError):
            key = self.verified(path.read_bytes())
            return None if key is None else (key, "\n".join(key.split("\n")[1:]))
        return None


def _key(isa: str, model_name: str) -> str:
    return f"{isa} refined-schedules-{VERSION} \n{model_name}"


def _decoded(content: bytes) -> tuple[str, dict[str, Blocks]] | None:
    """Key and blocks of an entry; None where anything about it is wrong."""
    try:
        found: dict[str, Any] = json.loads(content)
        if found["version"] != VERSION:
            return None
        blocks = {}
        for name, (rows, panels) in found["blocks"].items():
            if not (isinstance(rows, int) and isinstance(panels, int) and min(rows, panels) >= 1):
                return None
            blocks[str(name)] = Blocks(min(rows, 1 << 20), min(panels, 1 << 20))
        return _key(str(found["isa"]), str(found["cpu"])), blocks
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
