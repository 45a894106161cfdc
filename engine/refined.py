"""Schedules that were measured: kept per CPU and instruction set, shared by processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engine.measured import MeasuredStore
from engine.plan.blocks import Blocks

_MOST: Final = 4096
"""Products that are remembered; the oldest go first."""

_LARGEST: Final = 1 << 20
"""More rows or panels than any work item has."""


class RefinedStore(MeasuredStore[dict[str, Blocks]]):
    """Blocks by the key of a product."""

    folder_name = "refined"
    kind = "refined-schedules"
    version = 1
    field = "blocks"
    longest = 1 << 20

    def __init__(self, folder: Path | None = None, limit: int = 4 << 20) -> None:
        super().__init__(folder, limit)

    def get(self, isa: str, model_name: str) -> dict[str, Blocks]:
        """What was measured on a CPU of this name; empty where there is nothing of use."""
        return self.read(isa, model_name) or {}

    def add(self, isa: str, model_name: str, blocks: Mapping[str, Blocks]) -> dict[str, Blocks]:
        """Keep blocks beside those that this and other processes found before; returns all."""
        found = self.get(isa, model_name) | dict(blocks)
        kept = dict(list(found.items())[-_MOST:])
        content = {name: [each.rows, each.panels] for name, each in kept.items()}
        self.write(isa, model_name, content)
        return kept

    def decode(self, content: Mapping[str, Any]) -> dict[str, Blocks]:
        """See MeasuredStore."""
        blocks = {}
        for name, (rows, panels) in content.items():
            if not (isinstance(rows, int) and isinstance(panels, int) and min(rows, panels) >= 1):
                raise ValueError(f"{name}: {rows!r} rows and {panels!r} panels are no blocks")
            blocks[str(name)] = Blocks(min(rows, _LARGEST), min(panels, _LARGEST))
        return blocks
