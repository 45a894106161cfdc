"""Weight updates: other values for constants of a loaded model.

Passes fold constants into each other (a BatchNormalization into a convolution, a reshape into a
filter), so what depends on a weight is found by doing the offline phase again with the new value.
Packing is what that spares: every packed array has a key, the digest of what it was packed from,
and what the session's memory holds under the same key is copied from there. So exactly what
changed is packed, once, whatever lies between a weight and its packed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.codegen.target import Target
from engine.errors import InputError, ModelError
from engine.plan.options import PlanOptions
from engine.plan.packing import Known, Pieces
from engine.plan.prepared import Prepared
from engine.plan.weights import WeightMemory

Array = np.ndarray[Any, Any]


@dataclass
class Original:
    """Where a session's model came from, and the values that have replaced its constants.

    `identity` tells a file from others that come to stand under its name. Replaced values are kept
    unpacked, since the next update needs them; a model's bytes are kept by reference.
    """

    source: str | Path | bytes
    target: Target
    threads: int
    options: PlanOptions
    files: tuple[str, ...]
    identity: tuple[int, ...]
    replaced: dict[str, Array] = field(default_factory=dict)
    pieces: Pieces | None = None

    def renew(self, changes: Mapping[str, Array], memory: WeightMemory) -> tuple[Prepared, Any]:
        """The model with changed weights, and what `commit` takes once it is in use.

        `memory` holds the weights in use. Raises InputError for changes that do not fit,
        ModelError where the file is no longer the one that was loaded or the model cannot run with
        these values.
        """
        from engine.preparation import packed_pieces, prepare_again

        self._check_identity()
        setting = (self.source, self.target, self.threads, self.options)
        if self.pieces is None:
            pieces, size = packed_pieces(*setting)
            self.pieces = pieces if size == memory.size else {}
        replaced = {**self.replaced, **{name: _own(a, name) for name, a in changes.items()}}
        known = Known(memory.array(), self.pieces)
        prepared, pieces = prepare_again(*setting, replaced, known)
        self._check_identity()
        return prepared, (replaced, pieces)

    def commit(self, state: Any) -> None:
        """Take what `renew` returned as the state in use."""
        self.replaced, self.pieces = state

    def _check_identity(self) -> None:
        if not isinstance(self.source, str | Path):
            return
        if not self.identity or identity(self.source, self.files) != self.identity:
            raise ModelError(
                f"{self.source}: the file is not the one that was loaded; load it again instead of "
                "updating weights"
            )


def identity(source: str | Path | bytes, files: Sequence[str] = ()) -> tuple[int, ...]:
    """Device, inode, size and time of modification of a file and of `files` beside it; nothing for
    bytes, or where there is no such file."""
    if not isinstance(source, str | Path):
        return ()
    try:
        path = Path(source)
        found = [item.stat() for item in (path, *(path.parent / file for file in files))]
    except (OSError, ValueError):
        return ()
    return tuple(n for s in found for n in (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))


def _own(value: Any, name: str) -> Array:
    array = np.array(value, order="C")
    if array.dtype == object:
        raise InputError(f"weight {name!r}: the update is no numeric array")
    return array
