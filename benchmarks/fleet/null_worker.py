"""A worker whose model does nothing: `python -m benchmarks.fleet.null_worker FOLDER tcp|ipc`.

What is left of a batch's time is the channel.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.channel.inprocess import InProcessChannel
from cluster.channel.security import read_secret
from cluster.discovery import Announcement
from cluster.precision import PrecisionChoice
from cluster.session import LoadProgress, Tensor, Tensors
from cluster.worker.options import EndpointOptions, private_folder
from cluster.worker.server import EndpointServer


@dataclass(frozen=True)
class Spec:
    """See `cluster.session.TensorSpec`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


class NullSession:
    """Takes an image and gives its first value."""

    inputs = (Spec("image", np.dtype(np.float32), ("batch", 3, "height", "width")),)
    outputs = (Spec("first", np.dtype(np.float32), ("batch",)),)
    batch_axis = True
    batch_reason = "does nothing"

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> Tensors:
        """See `cluster.session.Session`."""
        return {"first": inputs["image"][:, 0, 0, 0].copy()}

    async def run_async(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> Tensors:
        """See `cluster.session.Session`."""
        return self.run(inputs, outputs)

    def stats(self) -> dict[str, int | float]:
        """See `cluster.session.Session`."""
        return {}

    def close(self) -> None:
        """See `cluster.session.Session`."""


def load(
    path: Path, *, threads: int | None, progress: LoadProgress, precision: PrecisionChoice
) -> NullSession:
    """See `cluster.session.Loader`."""
    return NullSession()


async def serve(folder: Path, kind: str) -> None:
    """Until the process is ended."""
    if kind == "tcp":
        options = EndpointOptions("null", tcp="127.0.0.1:0", secret=read_secret())
    else:
        options = EndpointOptions("null", private_folder(folder / "sockets"))
    server = EndpointServer(InProcessChannel(load), options)
    with closing(Announcement(folder / "workers", await server.open())):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
