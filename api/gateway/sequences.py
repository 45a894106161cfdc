"""Streaming sequences: the state of a model between requests, kept at the gateway.

A model's configuration says which output is the next value of which input. Requests of one
sequence then carry `sequence_id`, the first also `sequence_start`, the last `sequence_end` (the
protocol's sequence extension). The state travels with every request, so any worker can serve the
next one. It lives as long as the sequence is used, in bounded memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from api.errors import BadRequestError, OverloadedError
from api.protocol.sequence import SequenceStep
from cluster.catalog import ServedModel
from cluster.description import shape_text
from cluster.session import Tensor, Tensors

_Key = tuple[str, str, int | str]


@dataclass(slots=True)
class _Sequence:
    """State between two requests; the lock makes requests of one sequence take turns."""

    state: Tensors
    used: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: bool = False

    @property
    def size(self) -> int:
        """Bytes of the state."""
        return sum(array.nbytes for array in self.state.values())


@dataclass(slots=True)
class Turn:
    """One request's part in its sequence: what to run on, and what to hand back."""

    inputs: Tensors
    outputs: tuple[str, ...]
    results: Tensors | None = None


class Sequences:
    """Live sequences of all models; the least recently used ones expire first."""

    def __init__(
        self,
        idle_s: float,
        most: int,
        most_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A sequence expires `idle_s` seconds after its last request."""
        self._idle_s = idle_s
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._live: OrderedDict[_Key, _Sequence] = OrderedDict()
        self.bytes = 0
        self.expired = 0

    def __len__(self) -> int:
        self._expire()
        return len(self._live)

    @asynccontextmanager
    async def turn(
        self, model: ServedModel, step: SequenceStep | None, inputs: Tensors
    ) -> AsyncIterator[Turn]:
        """What a request runs on: its inputs, with the sequence's state where it has one.

        Set `results` to the outputs of a successful run; without them, and after an error, the
        state stays what it was, so that the client may send the request again. Raises
        `BadRequestError` for a sequence that is not known, `OverloadedError` where there are too
        many.
        """
        if step is None:
            yield Turn(inputs, ())
            return
        pairs = model.config.state
        if not pairs:
            raise BadRequestError(
                f"model '{model.name}' keeps no state between requests: name its state inputs and "
                "outputs under 'state' in its model.yaml, or leave out sequence_id"
            )
        self._expire()
        key = (model.name, model.version, step.id)
        sequence = self._live.get(key)
        if step.start:
            given = {name: inputs[name] for name in pairs if name in inputs}
            first = {**initial_state(model, inputs), **given}
            if sequence is None:
                self._admit()
                sequence = self._live[key] = _Sequence({}, self._clock())
        elif sequence is None:
            raise BadRequestError(
                f"model '{model.name}': sequence {step.id!r} is not known; it has ended, expired "
                f"after {self._idle_s:g} s, or began with another version of the model; begin it "
                "with sequence_start"
            )
        else:
            first = None
            self._refuse_state(model, inputs)
        async with sequence.lock:
            if sequence.ended and first is None:
                raise BadRequestError(f"model '{model.name}': sequence {step.id!r} has ended")
            self._touch(key, sequence)
            state = sequence.state if first is None else first
            turn = Turn({**inputs, **state}, tuple(pairs.values()))
            try:
                yield turn
            finally:
                self._leave(key, sequence, step, pairs, turn)

    def _leave(
        self,
        key: _Key,
        sequence: _Sequence,
        step: SequenceStep,
        pairs: Mapping[str, str],
        turn: Turn,
    ) -> None:
        results = turn.results
        if results is not None:
            self.bytes -= sequence.size if key in self._live else 0
            sequence.state = {name: _own(results[output]) for name, output in pairs.items()}
            sequence.ended = step.end
            self.bytes += sequence.size if key in self._live else 0
        if self._live.get(key) is sequence and (sequence.ended or not sequence.state):
            self._drop(key)
        while self.bytes > self._most_bytes and self._live:
            self._drop(next(iter(self._live)))
            self.expired += 1

    def _refuse_state(self, model: ServedModel, inputs: Tensors) -> None:
        for name in model.config.state:
            if name in inputs:
                raise BadRequestError(
                    f"model '{model.name}': input '{name}' is the sequence's state; it is sent "
                    "with sequence_start only"
                )

    def _admit(self) -> None:
        if len(self._live) >= self._most:
            raise OverloadedError(
                f"{len(self._live)} sequences are in progress, the limit is {self._most}; end some "
                "with sequence_end or try again later",
                retry_after=max(1, int(self._idle_s)),
            )

    def _touch(self, key: _Key, sequence: _Sequence) -> None:
        sequence.used = self._clock()
        if self._live.get(key) is not sequence:
            # It was dropped, or began anew, while this request waited for its turn.
            self._live[key] = sequence
            self.bytes += sequence.size
        self._live.move_to_end(key)

    def _expire(self) -> None:
        oldest = self._clock() - self._idle_s
        while self._live:
            key, sequence = next(iter(self._live.items()))
            if sequence.used > oldest or sequence.lock.locked():
                return
            self._drop(key)
            self.expired += 1

    def _drop(self, key: _Key) -> None:
        self.bytes -= self._live.pop(key).size


def initial_state(model: ServedModel, inputs: Tensors) -> Tensors:
    """Zeros for every state input that `inputs` leaves out.

    A symbolic size is that of the same symbol in a given input. Raises `BadRequestError` where it
    stands in none.
    """
    sizes: dict[str, int] = {}
    for tensor in model.description.inputs:
        array = inputs.get(tensor.name)
        if array is not None:
            named = zip(tensor.shape, array.shape, strict=False)
            sizes.update((dim, size) for dim, size in named if isinstance(dim, str))
    state: Tensors = {}
    for tensor in model.description.inputs:
        if tensor.name not in model.config.state or tensor.name in inputs:
            continue
        unknown = [dim for dim in tensor.shape if isinstance(dim, str) and dim not in sizes]
        if unknown:
            raise BadRequestError(
                f"model '{model.name}': how large the state '{tensor.name}' of shape "
                f"{shape_text(tensor.shape)} begins does not follow from the other inputs; send it "
                "with sequence_start"
            )
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in tensor.shape]
        state[tensor.name] = np.zeros(shape, tensor.dtype)
    return state


def _own(array: Tensor) -> Tensor:
    """The array, or a copy where it is part of a batch's, which it would keep alive."""
    return array if array.base is None else array.copy()
