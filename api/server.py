"""The server: the application on uvicorn; says what it does and drains when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import uvicorn

from api.channels import choose_channel
from api.errors import StartError
from api.gateway.app import create_app
from api.gateway.state import Gateway
from api.logs import configure_logging
from api.settings import Settings
from cluster.channel import Channel
from cluster.repository import Repository


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """Something a user would like to see while a server runs.

    `listening` carries the server's address in `message`; `loading` a model, what is being done
    with it in `message`, and how far that is; `failed` a model and the reason.
    """

    kind: Literal["listening", "loading", "failed", "ready", "draining", "stopped"]
    model: str = ""
    message: str = ""
    done: int = 0
    total: int = 0


EventCallback = Callable[[ServerEvent], None]


def serve(
    settings: Settings, on_event: EventCallback | None = None, *, channel: Channel | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was accepted and return.

    `on_event` is called on the server's thread. Raises `StartError`, or `RepositoryError` if there
    is nothing to serve.
    """
    configure_logging(settings.log_level, settings.log_format)
    server = InferenceServer(settings, on_event, channel=channel)
    server.run()
    server.raise_failure()


class InferenceServer:
    """A server that can also be started in a thread and stopped, as tests do."""

    def __init__(
        self,
        settings: Settings,
        on_event: EventCallback | None = None,
        *,
        channel: Channel | None = None,
    ) -> None:
        self._settings = settings
        self._emit = on_event or (lambda event: None)
        self._failure: StartError | None = None
        repository = Repository(settings.repository, name=settings.model_name)
        self.socket = _listen(settings)
        try:
            app = create_app(
                settings,
                channel or choose_channel(settings, self._report),
                repository,
                on_progress=self._progress,
            )
        except BaseException:
            self.socket.close()
            raise
        self.gateway: Gateway = app.state.gateway
        config = uvicorn.Config(
            app,
            lifespan="on",
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            timeout_keep_alive=max(1, round(settings.keep_alive_s)),
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        )
        self._server = _DrainingServer(config, self)

    @property
    def url(self) -> str:
        """Address of the server, with the port that was picked if it was 0."""
        host, port = self.socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until stopped or until a termination signal."""
        self._server.run(sockets=[self.socket])

    def stop(self) -> None:
        """Ask the server to drain and end; may be called from any thread."""
        self._server.should_exit = True

    def raise_failure(self) -> None:
        """Raise the `StartError` that ended the server, if one did."""
        if self._failure is not None:
            raise self._failure

    def _report(self) -> dict[str, Any]:
        """What the status of a fleet shows of this gateway."""
        gateway = self.gateway
        models = gateway.statistics.all()
        return {
            "url": self.url,
            "ready": gateway.ready,
            "waiting": sum(gateway.scheduler.waiting(m.key) for m in gateway.catalog.served()),
            "requests": sum(model.success.count for model in models),
            "failed": sum(failed.count for model in models for failed in model.failures.values()),
            "workers": [
                {"worker": w.worker, "state": w.state, "outstanding": w.outstanding}
                for w in gateway.channel.workers()
            ],
        }

    async def started(self) -> None:
        """Announce the address, then wait for the models beside the running server."""
        self._emit(ServerEvent("listening", message=self.url))
        self._loading = asyncio.create_task(self._await_models())

    async def draining(self) -> None:
        """Turn not ready first, then let load balancers see it before connections close."""
        self.gateway.draining = True
        self._emit(ServerEvent("draining"))
        await asyncio.sleep(self._settings.drain_delay_s)

    def stopped(self) -> None:
        """Announce the end."""
        self._emit(ServerEvent("stopped"))

    async def _await_models(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            failures = await self.gateway.loaded()
            for name, reason in failures.items():
                self._emit(ServerEvent("failed", model=name, message=reason))
            if not failures:
                self._emit(ServerEvent("ready", message=self.url))
            elif self._settings.exit_on_error:
                self._failure = StartError("; ".join(failures.values()))
                self.stop()

    def _progress(self, model: str, stage: str, done: int, total: int) -> None:
        self._emit(ServerEvent("loading", model, stage, done, total))


class _DrainingServer(uvicorn.Server):
    """Tells its owner when it has started and when it begins and ends to shut down."""

    def __init__(self, config: uvicorn.Config, owner: InferenceServer) -> None:
        super().__init__(config)
        self._owner = owner

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._owner.started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._owner.draining()
        await super().shutdown(sockets)
        self._owner.stopped()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio switches off Nagle's algorithm only on sockets, and on
    # those accepted from them, that say TCP; with it every answer would wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(settings.backlog)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StartError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}; choose another "
            "with PACKHORSE_HOST and PACKHORSE_PORT"
        ) from None
    return listener
