"""What a gateway has asked a worker for, besides batches, and still waits for."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.channel import wire
from cluster.channel.descriptions import unpack_description
from cluster.description import ModelDescription
from cluster.errors import ChannelError
from cluster.session import LoadProgress


@dataclass(frozen=True, slots=True)
class _Load:
    done: Future[ModelDescription]
    progress: LoadProgress | None


class Calls:
    """Loads, unloads and an isolation in progress, by the number of their message."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loads: dict[int, _Load] = {}
        self._unloads: dict[int, Future[None]] = {}
        self._isolation: Future[None] | None = None

    async def load(self, number: int, progress: LoadProgress | None) -> ModelDescription:
        """Wait for a load; raises what the worker says, or `ChannelError` at the end."""
        call = self._loads[number] = _Load(self._loop.create_future(), progress)
        try:
            return await call.done
        finally:
            del self._loads[number]

    async def unload(self, number: int) -> None:
        """Wait for an unload, or for the end."""
        self._unloads[number] = self._loop.create_future()
        await self._unloads[number]

    async def isolation(self) -> None:
        """Wait until the worker is ours alone; raises `ChannelError` at the end."""
        self._isolation = self._loop.create_future()
        await self._isolation

    def progressed(self, number: int, body: Mapping[str, Any]) -> None:
        """A step of a load."""
        call = self._loads.get(number)
        if call is not None and call.progress is not None:
            done, total = wire.count(body, "done"), wire.count(body, "total")
            call.progress(wire.text(body, "stage"), done, total)

    def loaded(self, number: int, body: Mapping[str, Any]) -> None:
        """The end of a load."""
        description = unpack_description(body.get("description"))
        call = self._loads.get(number)
        if call is not None and not call.done.done():
            call.done.set_result(description)

    def failed(self, number: int, error: Exception) -> bool:
        """The failure of a load; False if the number belongs to none."""
        call = self._loads.get(number)
        if call is not None and not call.done.done():
            call.done.set_exception(error)
        return call is not None

    def unloaded(self, number: int) -> None:
        """The end of an unload."""
        done = self._unloads.pop(number, None)
        if done is not None and not done.done():
            done.set_result(None)

    def isolated(self) -> None:
        """From here on the worker is ours alone."""
        if self._isolation is not None and not self._isolation.done():
            self._isolation.set_result(None)

    def end(self, reason: str) -> None:
        """The link has ended: nothing more comes."""
        for number in list(self._loads):
            self.failed(number, ChannelError(reason))
        for number in list(self._unloads):
            self.unloaded(number)
        if self._isolation is not None and not self._isolation.done():
            self._isolation.set_exception(ChannelError(reason))
