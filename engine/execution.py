"""Execution of a plan: native segments, fallbacks and control flow, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.errors import EngineError, RunError
from engine.graph.ir import Graph, Value
from engine.plan.binding import Sealed
from engine.plan.interpreted import Control, Fallback
from engine.plan.measure import Measure, Requirement, check_known
from engine.plan.weights import WeightMemory
from engine.runner import Runner
from engine.runtime.gang import Gang

Values = dict[int, Any]
"""Arrays (lists for sequences) by ``id`` of their graph value."""


class _Entry:
    """Takes over arrays that Python computed, and the sizes that they reveal.

    What an array tells of is settled here, once: the axes whose dim is a symbol of its own.
    """

    def __init__(self, values: Sequence[Value]) -> None:
        self.symbols: set[str] = set()
        self._values: list[tuple[int, tuple[tuple[int, str], ...]]] = []
        for value in values:
            axes = []
            for axis, dim in enumerate(value.shape or ()):
                name = str(dim)
                if dim.symbols == {name}:
                    axes.append((axis, name))
                    self.symbols.add(name)
            self._values.append((id(value), tuple(axes)))

    def take(self, results: Sequence[Any], values: Values, sizes: dict[str, int]) -> None:
        """Enter results, in the order of the values."""
        for (key, axes), result in zip(self._values, results, strict=False):
            array: Any = result
            if isinstance(result, np.ndarray | np.generic):
                array = np.asarray(result)
                if not array.flags.c_contiguous:
                    array = np.ascontiguousarray(array)
                shape = array.shape
                for axis, name in axes:
                    if axis < len(shape):
                        sizes.setdefault(name, shape[axis])
            values[key] = array


class _Fallback:
    """A node on the reference implementation."""

    def __init__(self, segment: Fallback) -> None:
        self.kernel = segment.kernel
        self.entry = _Entry(segment.node.outputs)

    def run(self, values: Values, sizes: dict[str, int]) -> None:
        operands = [content(value, values, sizes) for value in self.kernel.operands]
        self.entry.take(self.kernel.run(operands), values, sizes)


class _Control:
    """A node with subgraphs, whose bodies were prepared once."""

    def __init__(self, segment: Control, bodies: dict[str, Executor]) -> None:
        self.node = segment.node
        self.bodies = bodies
        self.entry = _Entry(segment.node.outputs)
        self._graphs = {
            name: (bodies[name], graph, _Entry(graph.inputs))
            for name, (graph, _) in segment.bodies.items()
        }

    def run(self, values: Values, sizes: dict[str, int]) -> None:
        from engine.runtime.reference import control_flow

        def body(name: str, _: list[Any]) -> Callable[[list[Any]], list[Any]]:
            return partial(_run_body, *self._graphs[name], values, sizes)

        node = self.node
        call = control_flow(node, body)
        operands = [content(value, values, sizes) for value in node.inputs]
        try:
            results = call(operands)
        except EngineError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RunError(f"node {node.label!r} ({node.key}) failed: {error}") from error
        self.entry.take(results, values, sizes)


class Executor:
    """The segments of a plan, ready to run; reentrant."""

    def __init__(
        self,
        segments: Sequence[Sealed | Fallback | Control | Measure],
        gang: Gang,
        weights: WeightMemory,
        model: str,
        requirements: Sequence[Requirement] = (),
    ) -> None:
        """`requirements` are those that the sizes of the inputs do not settle."""
        self.steps: list[Runner | Measure | _Fallback | _Control] = []
        self._model = model
        self._requirements = requirements
        for segment in segments:
            if isinstance(segment, Sealed):
                self.steps.append(Runner(segment, gang, weights, model))
            elif isinstance(segment, Measure):
                self.steps.append(segment)
            elif isinstance(segment, Fallback):
                self.steps.append(_Fallback(segment))
            else:
                bodies = {
                    name: Executor(inner, gang, weights, model)
                    for name, (_, inner) in segment.bodies.items()
                }
                self.steps.append(_Control(segment, bodies))

    @property
    def single(self) -> Runner | None:
        """The one native segment that is all there is, else None."""
        if len(self.steps) == 1 and isinstance(self.steps[0], Runner):
            return self.steps[0]
        return None

    def runners(self) -> list[Runner]:
        """Native segments, those of subgraphs too."""
        found: list[Runner] = []
        for step in self.steps:
            if isinstance(step, Runner):
                found.append(step)
            elif isinstance(step, _Control):
                found.extend(runner for body in step.bodies.values() for runner in body.runners())
        return found

    def run(self, values: Values, sizes: dict[str, int]) -> None:
        """Run every segment; both mappings grow by what becomes known."""
        open_ = self._requirements
        for step in self.steps:
            if isinstance(step, Runner):
                if open_:
                    open_ = check_known(open_, sizes, self._model)
                arrays = [values[id(value)] for value in step.program.inputs]
                results = step.run(sizes, arrays)
                for value, array in zip(step.program.outputs, results, strict=True):
                    values[id(value)] = array
            elif isinstance(step, Measure):
                arrays = [content(value, values, sizes) for value in step.inputs]
                step.run(arrays, sizes, self._model)
            else:
                step.run(values, sizes)


def _run_body(
    body: Executor,
    graph: Graph,
    entry: _Entry,
    values: Values,
    sizes: Mapping[str, int],
    arrays: list[Any],
) -> list[Any]:
    """One pass through a subgraph, on copies: a loop's sizes may differ from turn to turn."""
    inner_values = dict(values)
    inner_sizes = {name: size for name, size in sizes.items() if name not in entry.symbols}
    entry.take(arrays, inner_values, inner_sizes)
    body.run(inner_values, inner_sizes)
    return [content(value, inner_values, inner_sizes) for value in graph.outputs]


def content(value: Value | None, values: Values, sizes: Mapping[str, int]) -> Any:
    """Array of a value: computed, constant, or following from the sizes; None where omitted."""
    if value is None:
        return None
    found = values.get(id(value))
    if found is not None:
        return found
    if value.data is not None:
        return value.data
    if value.dims is None:
        return None
    elements = [dim.evaluate(sizes) for dim in value.dims]
    shape = tuple(dim.evaluate(sizes) for dim in value.shape or ())
    return np.array(elements, value.dtype).reshape(shape)
