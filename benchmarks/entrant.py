"""One engine with one model taking part in a comparison from a process of its own."""

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engines import EngineSetup
from benchmarks.host import EngineHost
from benchmarks.models import BenchmarkModel, Dims
from benchmarks.remote import Remote, RemoteError


class Entrant:
    """Keeps going for as long as anything can be measured.

    An engine that cannot load is out for good; one that fails at a case, even by killing its
    process, takes part again in the next. `failure` is the reason why it is out now.
    """

    def __init__(
        self, setup: EngineSetup, model: BenchmarkModel, path: Path, timeout: float
    ) -> None:
        self.name = setup.name
        self.threads = setup.threads
        self.failure: str | None = None
        self._factory = partial(EngineHost, setup, model.name, path)
        self._timeout = timeout
        self._remote = Remote(self._factory, timeout)
        self._loaded = False

    def load(self) -> tuple[float, int] | None:
        """Seconds and resident bytes of loading, None where it failed."""
        try:
            result: tuple[float, int] = self._remote.call("load")
        except RemoteError as error:
            self.failure = str(error)
            return None
        self._loaded = True
        return result

    def prepare(self, dims: Dims) -> dict[str, Any] | None:
        """Take up a case; the outputs for it, None where it failed."""
        if not self._loaded:
            return None
        self.failure = None
        try:
            if not self._remote.alive:
                self._remote.close()
                self._remote = Remote(self._factory, self._timeout)
                self._remote.call("load")
            outputs: dict[str, Any] = self._remote.call("prepare", dims)
        except RemoteError as error:
            self.failure = str(error)
            return None
        return outputs

    def block(self, calls: int, discard: int) -> list[float]:
        """Seconds of each call on the case taken up; raises RemoteError."""
        times: list[float] = self._remote.call("block", calls, discard)
        return times

    def visit(self, dims: Dims) -> float:
        """Seconds of one call on a case; raises RemoteError."""
        seconds: float = self._remote.call("visit", dims)
        return seconds

    def resident(self) -> int:
        """Physical memory of the engine's process in bytes; raises RemoteError."""
        size: int = self._remote.call("resident")
        return size

    def close(self) -> None:
        """End the process."""
        self._remote.close()
