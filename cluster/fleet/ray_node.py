"""A Ray node on this machine, started and ended through Ray's own command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cluster.errors import FleetError
from cluster.fleet.configuration import FleetArguments
from cluster.fleet.processes import ProcessId, end_tree
from cluster.fleet.standby import import_path
from cluster.topology.slots import divide
from cluster.topology.tree import read_topology

OBJECT_STORE_BYTES: Final = 100 << 20
"""Ray's shared memory: close to its minimum, because tensors do not travel through Ray."""


def require_ray() -> None:
    """Raise `FleetError` unless Ray and ZeroMQ are installed."""
    try:
        missing = [name for name in ("ray", "zmq") if find_spec(name) is None]
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
    if missing:
        raise FleetError(
            f"a fleet needs {' and '.join(missing)}; install it: pip install 'packhorse[fleet]'"
        )


def slots_here(arguments: FleetArguments) -> int:
    """How many workers this machine can hold; raises `PlacementError`."""
    return len(divide(read_topology(), arguments.slots, smt=arguments.smt))


def free_port(host: str = "127.0.0.1", wanted: int = 0) -> int:
    """`wanted` if nobody listens on it, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise FleetError(f"no free port on {host}")


def ray_environment(token_file: Path | None) -> dict[str, str]:
    """The environment of Ray's processes, from which those of the workers are made.

    Ray runs whatever it is sent, so the token is always on for clusters of ours. The folder that
    this package was imported from comes along, for workers that do not have it installed.
    """
    environment = dict(os.environ)
    if token_file is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
        environment.pop("RAY_AUTH_TOKEN", None)
    return import_path(environment)


def start_node(
    *,
    places: int,
    log: Path,
    environment: Mapping[str, str],
    port: int | None = None,
    dashboard_port: int | None = None,
    join: str | None = None,
    cpus: int | None = None,
    timeout_s: float = 90,
) -> ProcessId:
    """Start a node that may hold `places` workers: a head, or one that joins `join`.

    Returns when Ray says that it runs. Raises `FleetError` with the end of Ray's log.
    """
    require_ray()
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
        *("--disable-usage-stats", "--log-style=record", "--log-color=false"),
        f"--num-cpus={cpus or max(places, len(read_topology().cpus))}",
        f"--resources={json.dumps({'socket': places})}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
    ]
    if join is not None:
        command += [f"--address={join}"]
    else:
        command += ["--head", f"--port={port}", "--dashboard-host=127.0.0.1"]
        command += [f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={free_port()}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    started = ProcessId.of(process.pid)
    until = time.monotonic() + timeout_s
    while "Ray runtime started" not in (text := log.read_text(errors="replace")):
        if process.poll() is not None or started is None:
            raise FleetError(f"Ray does not start: {_ending(text)} (all of it in {log})")
        if time.monotonic() >= until:
            end_tree(started, 5)
            raise FleetError(f"Ray is not up within {timeout_s:g} s; see {log}")
        time.sleep(0.05)
    assert started is not None
    # It is found again by its id; nobody waits for it here.
    process.returncode = 0
    return started


def _ending(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-3:])[-600:] or "it said nothing"
