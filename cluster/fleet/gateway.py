"""How a gateway joins a fleet."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.fleet.directory_client import DirectoryDiscovery
from cluster.fleet.secrets import fleet_secret


def join(
    directory: str,
    options: NetworkOptions,
    *,
    secret_file: Path | None = None,
    report: Callable[[], dict[str, Any]] | None = None,
) -> NetworkedChannel:
    """A channel to the workers that the directory at `HOST:PORT` lists.

    Without a secret in `options`, it is looked for as `fleet_secret` does. What `report` gives
    stands in the fleet's status. Raises `ChannelError` or `FleetError` for a secret that cannot be
    used.
    """
    secret = options.secret or fleet_secret(secret_file)
    name = options.gateway or f"{os.uname().nodename}/{os.getpid()}"
    return NetworkedChannel(
        DirectoryDiscovery(directory, secret, name, report),
        replace(options, gateway=name, secret=secret),
    )
