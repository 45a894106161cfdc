"""The infer routes: decode, check, batch and run, encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response

from api.errors import BadRequestError, CancelledRequestError, OverloadedError, status_of
from api.gateway.body import request_body
from api.gateway.state import Gateway
from api.protocol.codec import InferAnswer, decode_request, encode_answer, parse_header_length
from api.protocol.compression import asked_encoding, deflate
from api.statistics import ModelStatistics
from cluster.catalog import ServedModel
from cluster.errors import DeadlineError
from engine.errors import InputError

Result = TypeVar("Result")

HEADER_LENGTH = "Inference-Header-Content-Length"

_THREAD_BYTES = 64 << 10  # from here on, packing would hold up the other requests noticeably


class InferenceRoutes:
    """Answers `POST /v2/models/NAME[/versions/VERSION]/infer`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def infer(self, request: Request) -> Response:
        """Run one inference request."""
        started = time.perf_counter_ns()
        path = request.path_params
        with self._gateway.catalog.find(path["model"], path.get("version")) as model:
            statistics = self._gateway.statistics.of(model.name, model.version)
            try:
                return await self._infer(request, model, statistics, started)
            except (Exception, asyncio.CancelledError) as error:
                statistics.failed(_reason(error), time.perf_counter_ns() - started)
                raise

    async def _infer(
        self, request: Request, model: ServedModel, statistics: ModelStatistics, started: int
    ) -> Response:
        gateway = self._gateway
        header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
        place = None
        if header_length is not None:
            # The tensors, which follow the JSON part, are to be aligned for whoever reads them.
            place = partial(gateway.channel.buffer, aligned=header_length)
        async with request_body(request, gateway.settings, gateway.budget, place) as body:
            read = time.perf_counter_ns()
            decoded = decode_request(body, header_length, model.description, gateway.limits)
            wanted = [output.name for output in decoded.outputs]
            async with gateway.sequences.turn(model, decoded.sequence, decoded.inputs) as turn:
                model.admit(turn.inputs)
                queued = time.perf_counter_ns()
                result = await _unless_gone(
                    request,
                    gateway.scheduler.infer(
                        model,
                        turn.inputs,
                        [*wanted, *turn.outputs],
                        priority=decoded.priority,
                        timeout_s=decoded.timeout_s,
                    ),
                )
                turn.results = result.outputs
            answered = time.perf_counter_ns()
            answer = encode_answer(
                model.name,
                model.version,
                decoded.id,
                [(output, result.outputs[output.name]) for output in decoded.outputs],
            )
            response = await _respond(request, answer)
        finished = time.perf_counter_ns()
        statistics.succeeded(
            finished - started, result.queue_ns, queued - read, finished - answered
        )
        return response


async def _respond(request: Request, answer: InferAnswer) -> Response:
    headers: dict[str, str] = {}
    if answer.header_length is not None:
        headers[HEADER_LENGTH] = str(answer.header_length)
    body = answer.body
    encoding = asked_encoding(request.headers.get("accept-encoding"))
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        headers["Vary"] = "Accept-Encoding"
        if len(body) < _THREAD_BYTES:
            body = deflate(body, encoding)
        else:
            body = await asyncio.to_thread(deflate, body, encoding)
    media_type = "application/json" if answer.header_length is None else "application/octet-stream"
    return Response(body, headers=headers, media_type=media_type)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for `work`; cancel it and raise `CancelledRequestError` if the client disconnects."""
    task = asyncio.current_task()
    assert task is not None
    gone = False
    waiting = True

    def disconnected(watch: asyncio.Task[None]) -> None:
        nonlocal gone
        if waiting and not watch.cancelled():
            gone = True
            task.cancel()

    watch = asyncio.create_task(_disconnect(request))
    watch.add_done_callback(disconnected)
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise CancelledRequestError("the client went away") from None
    finally:
        waiting = False
        watch.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _reason(error: BaseException) -> str:
    """Why a request failed, in the words of `nv_inference_request_failure`."""
    if isinstance(error, CancelledRequestError | asyncio.CancelledError):
        return "CANCELED"
    if isinstance(error, OverloadedError | DeadlineError):
        return "REJECTED"
    if isinstance(error, BadRequestError | InputError):
        return "OTHER"
    status = status_of(error) if isinstance(error, Exception) else None
    return "OTHER" if status in (408, 413, 501) else "BACKEND"
