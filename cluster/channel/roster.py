"""The workers that a gateway knows: listed by a discovery, each with a link while it is reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import zmq

from cluster.channel.arena import sweep
from cluster.channel.link import Link, LinkOptions, LinkOwner
from cluster.channel.status import WorkerStatus
from cluster.discovery import Discovery, Endpoints, WorkerEndpoint

_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts to reach a worker that is listed but does not answer."""


@dataclass(slots=True)
class _Place:
    """A listed worker: its link while there is one, and how reaching it has gone."""

    endpoint: WorkerEndpoint
    link: Link | None = None
    failures: int = 0
    trouble: str = ""
    retry: asyncio.TimerHandle | None = None


class RosterOwner(LinkOwner, Protocol):
    """Whom the roster and its links tell what happens."""

    def roster_changed(self) -> None:
        """Workers have come or gone."""


class Roster:
    """Keeps a link to every worker that is listed. Belongs to one event loop's thread."""

    def __init__(self, discovery: Discovery, options: LinkOptions, owner: RosterOwner) -> None:
        self._discovery = discovery
        self._options = options
        self._owner = owner
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._places: dict[str, _Place] = {}
        self._retired: set[Link] = set()

    def start(self) -> None:
        """Begin to look for workers; more calls do nothing."""
        if self._context is None:
            sweep()
            self._context = zmq.Context()
            self._watch = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Leave every worker at once."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        context, self._context = self._context, None
        for incarnation in list(self._places):
            self._forget(incarnation)
        for link in list(self._retired):
            link.close()
        if context is not None:
            await asyncio.to_thread(context.term)

    def links(self) -> list[Link]:
        """Links to workers that take messages."""
        return [place.link for place in self._places.values() if place.link and place.link.ready]

    def statuses(self) -> list[WorkerStatus]:
        """Every listed worker and how it is."""
        return [_status(place) for _, place in sorted(self._places.items())]

    def troubles(self) -> list[str]:
        """Why listed workers are not reached."""
        return [place.trouble for place in self._places.values() if place.trouble]

    def reached(self, link: Link) -> None:
        """A worker has answered: its earlier troubles are forgotten."""
        place = self._places.get(link.endpoint.incarnation)
        if place is not None:
            place.failures, place.trouble = 0, ""

    def lost(self, link: Link, reason: str) -> None:
        """A link has ended: it is tried again while its worker is listed."""
        self._retired.discard(link)
        place = self._places.get(link.endpoint.incarnation)
        if place is None or place.link is not link:
            return
        place.link = None
        place.trouble = reason
        pause = _RETRY_S[min(place.failures, len(_RETRY_S) - 1)]
        place.failures += 1
        place.retry = asyncio.get_running_loop().call_later(pause, self._connect, place)

    async def _follow(self) -> None:
        async for endpoints in self._discovery.watch():
            self._reconcile(endpoints)

    def _reconcile(self, endpoints: Endpoints) -> None:
        listed = {endpoint.incarnation: endpoint for endpoint in endpoints}
        for incarnation in self._places.keys() - listed.keys():
            self._forget(incarnation, in_order=True)
        for incarnation, endpoint in listed.items():
            if incarnation not in self._places:
                place = self._places[incarnation] = _Place(endpoint)
                self._connect(place)
        self._owner.roster_changed()

    def _connect(self, place: _Place) -> None:
        place.retry = None
        if self._context is not None:
            place.link = Link(self._context, place.endpoint, self._options, self._owner)

    def _forget(self, incarnation: str, *, in_order: bool = False) -> None:
        place = self._places.pop(incarnation)
        if place.retry is not None:
            place.retry.cancel()
        if place.link is not None and in_order:
            # It lives on through its flights, and is closed by the last of them.
            self._retired.add(place.link)
            place.link.retire()
        elif place.link is not None:
            place.link.close()


def _status(place: _Place) -> WorkerStatus:
    link = place.link
    state = "away" if link is None else "connecting"
    if link is not None and link.ready:
        state = "leaving" if link.leaving else "ready"
    return WorkerStatus(
        place.endpoint.worker,
        place.endpoint.incarnation,
        state,
        place.trouble,
        len(link.models) if link is not None else 0,
        link.outstanding if link is not None else 0,
        link.credits if link is not None else 0,
        link is not None and link.shared,
    )
