"""A fleet's worker without Ray: `python -m ...worker_process ARGUMENTS DIRECTORY`.

It does what `WorkerReplica` does: starts, looks after itself, and leaves on SIGTERM.
"""

import asyncio
import json
import signal
import sys

from cluster.fleet import worker
from cluster.fleet.configuration import FleetArguments
from cluster.fleet.worker import FleetWorker


async def serve(arguments: FleetArguments, directory: str) -> None:
    async def resolve() -> str:
        return directory

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker._STANDBY_AFTER_S, worker._STANDBY_EVERY_S, worker._STANDBY_LOOK_S = 0.0, 0.2, 0.05
    found = FleetWorker(arguments, fleet="test", node="here", resolve=resolve)
    await found.start()
    while not stop.is_set():
        found.check()
        await asyncio.sleep(0.05)
    await found.close()


if __name__ == "__main__":
    asyncio.run(serve(FleetArguments(**json.loads(sys.argv[1])), sys.argv[2]))
