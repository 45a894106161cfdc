"""An object in a process of its own, so that engines share neither threads nor memory nor fate."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self


class RemoteError(Exception):
    """The call failed, or the process died or gave no answer; the message says which."""


class Remote:
    """Runs the methods of `factory()` in a fresh process, one call at a time.

    An exception over there becomes a RemoteError here. A process that dies, or does not answer
    within `timeout` seconds, is ended, and every later call fails too.
    """

    def __init__(self, factory: Callable[[], object], timeout: float = 600.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._timeout = timeout
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.is_alive()

    def call(self, method: str, *arguments: Any) -> Any:
        """Result of `method` of the remote object."""
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(self._timeout):
                self._process.kill()
                self._process.join()
                raise RemoteError(f"no answer to {method!r} within {self._timeout:g} s")
            failed, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5.0)
            raise RemoteError(f"process ended during {method!r}: {self._ending()}") from None
        if failed:
            raise RemoteError(value)
        return value

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ending(self) -> str:
        code = self._process.exitcode
        if code is None:
            return "it closed its connection"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _serve(connection: Connection, factory: Callable[[], object]) -> None:
    # An interrupt at the terminal reaches every process of the group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target: object | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            target = factory() if target is None else target
            answer = (False, getattr(target, method)(*arguments))
        except Exception as error:
            answer = (True, f"{type(error).__name__}: {error}")
        connection.send(answer)
