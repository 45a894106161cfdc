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
        self.steps: list[Runner | Fallback | Measure | tuple[Control, dict[str, Executor]]] = []
        self._model = model
        self._requirements = requirements
        for segment in segments:
            if isinstance(segment, Sealed):
                self.steps.append(Runner(segment, gang, weights, model))
            elif isinstance(segment, Fallback | Measure):
                self.steps.append(segment)
            else:
                bodies = {
                    name: Executor(inner, gang, weights, model)
                    for name, (_, inner) in segment.bodies.items()
                }
                self.steps.append((segment, bodies))

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
            elif isinstance(step, tuple):
                found.extend(runner for body in step[1].values() for runner in body.runners())
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
            elif isinstance(step, tuple):
                self._control(*step, values, sizes)
            elif isinstance(step, Measure):
                arrays = [content(value, values, sizes) for value in step.inputs]
                step.run(arrays, sizes, self._model)
            else:
                operands = [content(value, values, sizes) for value in step.kernel.operands]
                _enter(step.node.outputs, step.kernel.run(operands), values, sizes)

    def _control(
        self,
        segment: Control,
        bodies: Mapping[str, Executor],
        values: Values,
        sizes: dict[str, int],
    ) -> None:
        from engine.runtime.reference import control_flow

        def body(name: str, _: list[Any]) -> Callable[[list[Any]], list[Any]]:
            graph = segment.bodies[name][0]
            return partial(_run_body, bodies[name], graph, values, sizes)

        call = control_flow(segment.node, body)
        node = segment.node
        operands = [content(value, values, sizes) for value in node.inputs]
        try:
            results = call(operands)
        except EngineError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RunError(f"node {node.label!r} ({node.key}) failed: {error}") from error
        _enter(segment.node.outputs, results, values, sizes)


def _run_body(
    body: Executor,
    graph: Graph,
    values: Values,
    sizes: Mapping[str, int],
    arrays: list[Any],
) -> list[Any]:
    """One pass through a subgraph, on copies: a loop's sizes may differ from turn to turn."""
    own = {str(dim) for v in graph.inputs for dim in v.shape or () if dim.symbols == {str(dim)}}
    inner_values = dict(values)
    inner_sizes = {name: size for name, size in sizes.items() if name not in own}
    _enter(graph.inputs, arrays, inner_values, inner_sizes)
    body.run(inner_values, inner_sizes)
    return [content(value, inner_values, inner_sizes) for value in graph.outputs]


def _enter(
    outputs: Sequence[Value], results: Sequence[Any], values: Values, sizes: dict[str, int]
) -> None:
    """Take over arrays that Python computed, and the sizes that they reveal."""
    for value, result in zip(outputs, results, strict=False):
        array: Any = result
        if isinstance(result, np.ndarray | np.generic):
            array = np.ascontiguousarray(result).reshape(np.shape(result))
            for dim, size in zip(value.shape or (), array.shape, strict=False):
                name = str(dim)
                if dim.symbols == {name}:
                    sizes.setdefault(name, size)
        values[id(value)] = array


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
