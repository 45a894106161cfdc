"""`python -m cluster.worker`: a worker as a plain process, without Ray.

It says where it is reached in a folder that gateways watch (`PACKHORSE_WORKERS`), and leaves in
order on SIGTERM and SIGINT: it withdraws, answers what it has, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from cluster.channel.heartbeat import Heartbeat
from cluster.channel.security import VARIABLE, read_secret
from cluster.discovery import Announcement
from cluster.errors import ClusterError
from cluster.repository import Repository
from cluster.worker.options import EndpointOptions, private_folder
from engine.precision import KINDS


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m cluster.worker", description=__doc__)
    add = parser.add_argument
    add("--announce", type=Path, required=True, help="folder that gateways watch for workers")
    add("--name", default=f"{os.uname().nodename}/{os.getpid()}", help="name of this place")
    add("--models", type=Path, help="repository to load before being ready")
    add("--sockets", type=Path, help="folder of the socket for this machine, closed to others")
    add("--tcp", help="HOST:PORT to listen on for other machines; port 0 takes a free one")
    add("--advertise", help="host under which other machines reach --tcp")
    add("--secret-file", type=Path, help=f"shared secret for --tcp; else {VARIABLE}")
    add("--cpus", help="CPUs to run on, such as 0,1 or 0-3")
    add("--threads", type=int, help="threads per model; all of --cpus by default")
    add("--isa", choices=("baseline", "avx2", "avx512"), help="instruction set to use at most")
    add("--precision", choices=KINDS, help="precision of models whose model.yaml names none")
    add("--cache", type=Path, help="folder of the compiled code")
    add("--refine", action="store_true", help="measure schedules while the engine is idle")
    add("--depth", type=int, default=1, help="batches that run at once")
    add("--credits", type=int, default=2, help="batches that gateways together may have under way")
    add(
        "--shared-bytes", type=int, default=256 << 20, help="shared memory for answers, per gateway"
    )
    add("--heartbeat", type=float, default=0.25, help="seconds between heartbeats")
    add("--stall", type=float, default=10.0, help="seconds without progress that end the worker")
    add("--run-limit", type=float, default=60.0, help="seconds of a run past its deadline that do")
    add("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    return parser.parse_args(arguments)


def cpu_list(text: str) -> set[int]:
    """The CPUs of a list such as `0,2-5`; raises `ValueError`."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


async def serve(options: argparse.Namespace) -> None:
    """Load, listen, announce; until a signal."""
    # Imported here, because numba sizes itself when it is imported: after the process is pinned.
    from cluster.channel.inprocess import EngineLoader, InProcessChannel
    from cluster.worker.server import EndpointServer

    endpoint_options = EndpointOptions(
        options.name,
        folder=private_folder(options.sockets),
        tcp=options.tcp,
        advertise=options.advertise,
        secret=read_secret(options.secret_file),
        credits=options.credits,
        depth=options.depth,
        heartbeat=Heartbeat(options.heartbeat, 4 * options.heartbeat),
        shared_bytes=options.shared_bytes,
        stall_s=options.stall,
        limit_s=options.run_limit,
    )
    channel = InProcessChannel(
        EngineLoader(options.isa, options.cache, options.refine, options.precision),
        depth=options.depth,
    )
    server = EndpointServer(channel, endpoint_options)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if options.models is not None:
        await server.preload(Repository(options.models), options.threads)
    endpoint = await server.open()
    try:
        with closing(Announcement(options.announce, endpoint)):
            await stop.wait()
        await server.drain()
    finally:
        await server.close()


def main() -> None:
    """Run a worker until it is told to end; errors of the configuration go to stderr."""
    options = parse(sys.argv[1:])
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(message)s")
    try:
        if options.cpus is not None:
            os.sched_setaffinity(0, cpu_list(options.cpus))
        asyncio.run(serve(options))
    except (ClusterError, OSError, ValueError) as error:
        sys.exit(f"worker: {error}")


if __name__ == "__main__":
    main()
