"""Calls on fixed arrays: what a run decides again each time is decided once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError

if TYPE_CHECKING:
    from engine.session import Session

Array = np.ndarray[Any, Any]


class BoundCall:
    """A model on fixed arrays; made by `Session.bind`.

    Each call reads the inputs' present content and returns `outputs`, arrays by name, which the
    next call overwrites. Calls of one object must not overlap; other objects and `Session.run` are
    free to run beside it. After an update of the weights the next call uses the new ones.
    """

    def __init__(
        self, session: Session, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        for name, array in inputs.items():
            if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
                raise InputError(
                    f"{session.name}: input {name!r} must be a C-contiguous array to be bound"
                )
        self._session = session
        self._inputs = dict(inputs)
        self._given = dict(outputs)
        self.outputs: dict[str, Array] = {}
        self._run: Callable[[], object] = self._long_way
        self._bind()

    def __call__(self) -> dict[str, Array]:
        """Run the model on what the inputs hold now. Raises RunError where the model fails."""
        if self._session._state is not self._state:
            self._bind()
        self._run()
        self._session._runs += 1
        return self.outputs

    def _bind(self) -> None:
        session = self._session
        state = self._state = session._state
        arrays, sizes = state.arguments.accept(self._inputs)
        for (name, given), array in zip(self._inputs.items(), self._in_order(arrays), strict=True):
            if array is not given:
                raise InputError(f"{session.name}: input {name!r} must be bound as {array.dtype}")
        direct = state.direct
        if direct is None or direct.measured:
            self._fill(session.run(self._inputs))
            self._run = self._long_way
            return
        runner = direct.runner
        ready = runner.bind(sizes)
        shapes = {name: ready.outputs[place][1:] for name, place in direct.places}
        self._make(shapes)
        made = [self.outputs[name] for name, _ in sorted(direct.places, key=lambda item: item[1])]
        if ready.bound.inline and not ready.slices:
            fixed = [runner.base, *direct.reads(arrays), *made]
            self._run = partial(runner.run_inline, ready.bound, fixed)
        else:
            self._run = partial(runner.run, sizes, direct.reads(arrays), made)

    def _in_order(self, arrays: list[Any]) -> list[Any]:
        """Arrays that the session accepted, in the order in which they were given."""
        places = {spec.name: place for place, spec in enumerate(self._session.inputs)}
        return [arrays[places[name]] for name in self._inputs]

    def _make(self, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        """Take the outputs that were given and make the others."""
        name = self._session.name
        for given in self._given:
            if given not in shapes:
                known = ", ".join(shapes)
                raise InputError(f"{name}: there is no output {given!r}; outputs are {known}")
        for output, (shape, dtype) in shapes.items():
            array = self._given.get(output)
            if array is None:
                array = self.outputs.get(output)
            if array is None:
                try:
                    array = np.empty(shape, dtype)
                except MemoryError as error:
                    raise InputError(
                        f"{name}: no memory for the output {output!r}: {error}"
                    ) from None
            fits = isinstance(array, np.ndarray) and array.flags.c_contiguous
            if (
                not fits
                or array.shape != shape
                or array.dtype != dtype
                or not array.flags.writeable
            ):
                wanted = f"{dtype} [{', '.join(map(str, shape))}]"
                raise InputError(
                    f"{name}: output {output!r} must be a writeable C-contiguous array of {wanted}"
                )
            self.outputs[output] = array

    def _fill(self, results: Mapping[str, Array]) -> None:
        self._make({name: (array.shape, array.dtype) for name, array in results.items()})
        for name, array in results.items():
            np.copyto(self.outputs[name], array)

    def _long_way(self) -> None:
        """Several segments, or numbers of inputs that count: as `Session.run`, with a copy."""
        self._fill(self._session.run(self._inputs))
