"""What the cluster layer needs of an inference session, as a protocol.

`engine.Session` fulfils it. Tests put other implementations in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cluster.precision import PrecisionChoice

Tensor = npt.NDArray[Any]
Tensors = dict[str, Tensor]

LoadProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total) while a model loads; may be called from another thread."""


class TensorSpec(Protocol):
    """Name, element type and shape of one input or output; a `str` dimension is symbolic."""

    @property
    def name(self) -> str:
        """Name of the tensor."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type; strings have dtype `object`."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Dimensions; a `str` names a symbolic one."""


class Session(Protocol):
    """A loaded model that runs."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Inputs in the model's order."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the model's order."""

    @property
    def batch_axis(self) -> bool:
        """True if requests may be concatenated along axis 0 of every input and output."""

    @property
    def batch_reason(self) -> str:
        """Why `batch_axis` is what it is."""

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> Tensors:
        """Run the model and wait for it."""

    async def run_async(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> Tensors:
        """Run the model; the running event loop stays free."""

    def stats(self) -> Mapping[str, int | float]:
        """Counters of the session."""

    def close(self) -> None:
        """Free what the session holds; must not be called while a run is in progress."""


@runtime_checkable
class RaggedSession(Protocol):
    """A session that may run requests of different lengths together."""

    @property
    def ragged_axes(self) -> tuple[str, str] | None:
        """Names of the batch and of the length in the inputs' shapes; None where it may not."""

    async def run_ragged_async(
        self, feeds: Sequence[Mapping[str, Tensor]], outputs: Sequence[str] | None = None
    ) -> list[Tensors]:
        """Run requests together; each gets the bytes that it would get alone."""


class Loader(Protocol):
    """Makes a session out of a model file; blocks while it compiles."""

    def __call__(
        self,
        path: Path,
        *,
        threads: int | None,
        progress: LoadProgress,
        precision: PrecisionChoice,
    ) -> Session:
        """Load the model; raises `engine.errors.EngineError`."""
