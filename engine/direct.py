"""The direct way of a model that is one native segment: from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy import empty, ndarray

from engine.graph.ir import Value
from engine.runner import Ready, Runner
from engine.specification import Arguments

Array = np.ndarray[Any, Any]

_KNOWN_SHAPES: Final = 4096
"""Combinations of input shapes for which the bound program is remembered."""


class Direct:
    """Runs a model whose one native segment takes its inputs and makes its outputs, by position.

    `quick` serves small programs, in which deciding takes as long as computing: arrays whose shapes
    ran before go straight to their bound program, and those of new shapes to binding.
    """

    def __init__(
        self,
        runner: Runner,
        inputs: Sequence[Value],
        outputs: Sequence[tuple[str, int]],
        arguments: Arguments,
        measured: bool = False,
    ) -> None:
        """`measured` tells that the program depends on numbers of inputs, not on shapes alone."""
        self.runner = runner
        self.measured = measured
        self.places = outputs
        places = {id(value): place for place, value in enumerate(inputs)}
        self._reads = [places[id(value)] for value in runner.program.inputs]
        self._expected = [
            (v.name, None if v.dtype is None else np.dtype(v.dtype.type))
            for v in runner.program.inputs
        ]
        in_order = self._reads == list(range(len(inputs)))
        alike = in_order and [place for _, place in outputs] == list(range(len(outputs)))
        self._sizes = arguments.sizes if alike and not measured else None
        self._reader = arguments.reader(runner.program.symbols)
        self._names = [name for name, _ in outputs]
        self._known = runner.known

    @classmethod
    def of(
        cls,
        runner: Runner | None,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        arguments: Arguments,
        measured: bool = False,
    ) -> Direct | None:
        """The direct way, None where an output is an input, a constant or known from sizes."""
        if runner is None:
            return None
        made = {id(value): place for place, value in enumerate(runner.program.outputs)}
        if {id(value) for value in outputs} != made.keys() or len(outputs) != len(made):
            return None
        places = [(value.name, made[id(value)]) for value in outputs]
        return cls(runner, inputs, places, arguments, measured)

    def quick(self, inputs: Mapping[str, Any]) -> dict[str, Array] | None:
        """Outputs by name; None where the long way is due, which says what does not fit."""
        if self._sizes is None or len(inputs) != len(self._expected):
            return None
        # As `Arguments.accept` begins, written out: a call takes as long as these checks.
        runner = self.runner
        arrays, shapes = [runner.base], []
        for name, dtype in self._expected:
            array = inputs.get(name)
            if (
                array.__class__ is not ndarray
                or array.dtype is not dtype
                or not array.flags.c_contiguous
            ):
                return None
            arrays.append(array)
            shapes.append(array.shape)
        key = tuple(shapes)
        ready = self._known.get(key)
        if ready is None or ready.gone:
            ready = self._meet(key)
            if ready is None:
                return None
        else:
            runner.hits += 1
            ready.runs += 1
            ready.used = True
        bound = ready.bound
        if not bound.inline or ready.slices:
            return dict(zip(self._names, runner.run_bound(ready, arrays[1:]), strict=True))
        results = {}
        try:
            for name, shape, dtype in ready.outputs:
                results[name] = array = empty(shape, dtype)
                arrays.append(array)
        except MemoryError as error:
            raise runner.no_room(error) from None
        status = runner.gang.run_inline(bound.memory, bound.arena, arrays)
        if status:
            runner.check(status)
        return results

    def _meet(self, shapes: tuple[tuple[int, ...], ...]) -> Ready | None:
        """The program for shapes that were not met before, or whose program had to go."""
        if self._reader is not None:
            key = self._reader.read(shapes)
            if key is None:
                return None
            ready = self.runner.bind_to(key)
        else:
            assert self._sizes is not None
            sizes = self._sizes(shapes)
            if sizes is None:
                return None
            ready = self.runner.bind(sizes)
        if len(self._known) >= _KNOWN_SHAPES:
            self._known.clear()
        self._known[shapes] = ready
        ready.shapes = shapes
        return ready

    def run(self, arrays: Sequence[Array], sizes: Mapping[str, int]) -> Sequence[Array]:
        """The program's outputs for arrays of the model's inputs."""
        return self.runner.run(sizes, self.reads(arrays))

    def reads(self, arrays: Sequence[Array]) -> list[Array]:
        """Arrays of the program's inputs out of those of the model's."""
        return [arrays[place] for place in self._reads]

    def named(self, results: Sequence[Array], wanted: Sequence[str] | None) -> dict[str, Array]:
        """Outputs by name; all, or those that are wanted."""
        found = {name: results[place] for name, place in self.places}
        return found if wanted is None else {name: found[name] for name in wanted}
