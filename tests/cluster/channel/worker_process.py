"""A worker process with sessions that obey their input: `python -m ...worker_process FOLDER NAME`.

The model doubles its input. 666 kills the process, 777 stops it, 555 fails the run, 888 never
returns; a row of 0.X in the second column takes that many seconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.channel.heartbeat import Heartbeat
from cluster.channel.inprocess import InProcessChannel
from cluster.discovery import Announcement
from cluster.precision import PrecisionChoice
from cluster.session import LoadProgress, Tensor, Tensors
from cluster.worker.options import EndpointOptions, private_folder
from cluster.worker.server import EndpointServer
from cluster.worker.watchdog import Watchdog
from engine.errors import RunError

HEARTBEAT = Heartbeat(0.1, 0.6)
STUCK = threading.Event()


@dataclass(frozen=True)
class Spec:
    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]


class ObedientSession:
    inputs = (Spec("x", np.dtype(np.float32), ("N", "D")),)
    outputs = (
        Spec("y", np.dtype(np.float32), ("N", "D")),
        Spec("pid", np.dtype(np.int64), ("N",)),
    )
    batch_axis = True
    batch_reason = "rows are doubled one by one"

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> Tensors:
        x = inputs["x"]
        for signal_number, value in ((signal.SIGKILL, 666), (signal.SIGSTOP, 777)):
            if (x[:, 0] == value).any():
                os.kill(os.getpid(), signal_number)
        if (x[:, 0] == 888).any():
            STUCK.set()
            threading.Event().wait()
        if (x[:, 0] == 555).any():
            raise RunError("node 'double': does not like 555")
        if x.shape[1] > 1 and len(x):
            time.sleep(float(x[:, 1].max()))
        found = {"y": x * 2, "pid": np.full(len(x), os.getpid())}
        return {name: found[name] for name in (outputs or found)}

    async def run_async(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> Tensors:
        return await asyncio.to_thread(self.run, inputs, outputs)

    def stats(self) -> dict[str, int | float]:
        return {"runs": 1}

    def close(self) -> None:
        pass


def load(
    path: Path, *, threads: int | None, progress: LoadProgress, precision: PrecisionChoice
) -> ObedientSession:
    if path.read_text() == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return ObedientSession()


async def serve(folder: Path, name: str) -> None:
    options = EndpointOptions(
        name, private_folder(folder / "sockets"), heartbeat=HEARTBEAT, shared_bytes=4 << 20
    )
    watchdog = Watchdog(0.5, 60, lambda: 0 if STUCK.is_set() else None)
    server = EndpointServer(InProcessChannel(load), options, watchdog)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with closing(Announcement(folder / "workers", await server.open())):
        await stop.wait()
    await server.drain()
    await server.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
