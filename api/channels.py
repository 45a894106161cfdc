"""Where a server's batches run: on the engine in its process, or on workers in others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.errors import StartError
from api.settings import Settings
from cluster.channel import Channel
from cluster.channel.heartbeat import Heartbeat
from cluster.channel.inprocess import EngineLoader, InProcessChannel
from cluster.discovery import FolderDiscovery
from cluster.errors import ClusterError


def choose_channel(settings: Settings, report: Callable[[], dict[str, Any]]) -> Channel:
    """The channel that the settings ask for.

    The workers that a fleet's directory lists, those that announce themselves in a folder, or else
    the engine in this process. What `report` gives stands in the fleet's status. Raises
    `StartError`.
    """
    if settings.directory is None and settings.workers is None:
        loader = EngineLoader(settings.isa, settings.cache_dir, settings.refine)
        return InProcessChannel(loader, depth=settings.pipeline_depth)
    try:
        return _networked(settings, report)
    except ModuleNotFoundError as error:
        raise StartError(
            f"workers need the package {error.name}; install it: pip install 'packhorse[fleet]'"
        ) from None
    except ClusterError as error:
        raise StartError(str(error)) from None


def _networked(settings: Settings, report: Callable[[], dict[str, Any]]) -> Channel:
    from cluster.channel.networked import NetworkedChannel, NetworkOptions

    options = NetworkOptions(
        secret=settings.fleet_secret,
        heartbeat=Heartbeat(settings.heartbeat_s, 4 * settings.heartbeat_s),
        shared_bytes=settings.shared_memory_bytes,
        worker_wait_s=settings.worker_wait_s,
    )
    if settings.directory is not None:
        from cluster.fleet.gateway import join

        secret_file = settings.fleet_secret_file
        return join(settings.directory, options, secret_file=secret_file, report=report)
    assert settings.workers is not None
    return NetworkedChannel(FolderDiscovery(settings.workers), options)
