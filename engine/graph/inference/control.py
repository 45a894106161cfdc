"""Rules of control flow: the bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.graph.dims import Dim, maximum
from engine.graph.inference.context import Inference, Shape, Unknown
from engine.graph.inference.registry import rule
from engine.graph.inference.sequence import common_shape
from engine.graph.ir import Graph, Node, Value

_ROUNDS = 4
"""Most passes over a loop body; each turns one more differing dim into a symbol, then the rank."""


def _walk(node: Inference, body: Graph) -> frozenset[str]:
    """Infer a subgraph; returns the symbols that only it knows."""
    before = set(node.state.created)
    node.state.walk(body, node.state, body)
    return frozenset(name for name in node.state.created if name not in before)


def _merge(node: Inference, output: int, sources: Sequence[Value], local: frozenset[str]) -> None:
    """Give an output what all `sources` agree on."""
    target = node.node.outputs[output]
    first = sources[0]
    if any(source.kind != first.kind or source.dtype != first.dtype for source in sources):
        if any(None not in (s.dtype, first.dtype) and s.dtype != first.dtype for s in sources):
            node.error(f"output {target.name!r} has types {[str(s.dtype) for s in sources]}")
        return
    target.kind, target.dtype = first.kind, first.dtype
    if first.kind == "tensor":
        shapes = [source.shape for source in sources]
        target.shape = common_shape(node, output, shapes, local)
    else:
        shapes = [node.state.items.get(id(source)) for source in sources]
        node.state.items[id(target)] = common_shape(node, output, shapes, local)


def _choose(
    node: Inference,
    output: int,
    condition: Dim,
    sources: Sequence[Value],
    local: frozenset[str],
) -> None:
    """Shape of an output whose branches differ in sizes, where sizes decide which one runs."""
    target = node.node.outputs[output]
    then, otherwise = (source.shape for source in sources)
    if target.shape is None or then is None or otherwise is None:
        return
    target.shape = tuple(
        own if a is b or (a.symbols | b.symbols) & local else b + condition * (a - b)
        for own, a, b in zip(target.shape, then, otherwise, strict=True)
    )


def _bind(node: Inference, formal: Value, actual: Value) -> None:
    formal.kind, formal.dtype, formal.shape = actual.kind, actual.dtype, actual.shape
    node.state.items[id(formal)] = node.state.items.get(id(actual))


@rule("If")
def _branch(node: Inference) -> None:
    then, otherwise = node.attribute("then_branch"), node.attribute("else_branch")
    taken = node.state.known(node.value(0))
    condition = taken.reshape(-1)[0] if taken is not None and taken.size == 1 else None
    outer = node.state.when(node.subgraph)
    if isinstance(condition, Dim) and outer is not None:
        node.state.taken[id(then)] = outer * condition
        node.state.taken[id(otherwise)] = outer * (1 - condition)
    local = _walk(node, then) | _walk(node, otherwise)
    count = len(node.node.outputs)
    if not len(then.outputs) == len(otherwise.outputs) == count:
        node.error(f"the branches have {len(then.outputs)} and {len(otherwise.outputs)} outputs")
    for output in range(count):
        sources = [then.outputs[output], otherwise.outputs[output]]
        if isinstance(condition, Dim) and condition.is_constant:
            sources = sources[1:] if condition == 0 else sources[:1]
        _merge(node, output, sources, local)
        if isinstance(condition, Dim) and len(sources) == 2:
            _choose(node, output, condition, sources, local)


@rule("Loop")
def _loop(node: Inference) -> None:
    body = node.attribute("body")
    carried = [node.value(index) for index in range(2, len(node.node.inputs))]
    if len(body.inputs) != len(carried) + 2 or len(body.outputs) < len(carried) + 1:
        node.error("the body's inputs and outputs do not match the carried values")
    for formal, dtype in zip(body.inputs, (np.int64, np.bool_), strict=False):
        formal.kind, formal.dtype, formal.shape = "tensor", np.dtype(dtype), ()
    local = _fixed_point(node, body, carried, body.inputs[2:], body.outputs[1:])
    for output, initial in enumerate(carried):
        _merge(node, output, [initial, body.outputs[output + 1]], local)
    trips = _trip_count(node, body)
    for output in range(len(carried), len(node.node.outputs)):
        inner = body.outputs[output + 1]
        node.output(output, dtype=inner.dtype)
        if inner.shape is not None:
            count = node.fresh(output, 0) if trips is None else trips
            node.output(output, (count, *_outside(node, output, inner.shape, local)))


def _outside(node: Inference, output: int, shape: Shape, local: frozenset[str]) -> Shape:
    """Shape of one iteration as the stacked output has it: inner symbols become its own."""
    return tuple(
        node.fresh(output, axis) if dim.symbols & local else dim
        for axis, dim in enumerate(shape, 1)
    )


def _fixed_point(
    node: Inference,
    body: Graph,
    initial: Sequence[Value],
    formal: Sequence[Value],
    final: Sequence[Value],
) -> frozenset[str]:
    """Infer a body whose carried values may change shape from iteration to iteration."""
    for value, start in zip(formal, initial, strict=False):
        _bind(node, value, start)
    symbols: set[str] = set()
    for _ in range(_ROUNDS):
        symbols |= _walk(node, body)
        changed = False
        for before, after in zip(formal, final, strict=False):
            if before.kind != "tensor" or before.shape is None:
                continue
            merged = _widen(node, before, after, symbols)
            changed |= merged != before.shape
            before.shape = merged
        if not changed:
            return frozenset(symbols)
    for value in formal:
        value.shape = None
    return frozenset(symbols | set(_walk(node, body)))


def _widen(node: Inference, before: Value, after: Value, symbols: set[str]) -> Shape | None:
    """Shape that holds before every iteration: dims that the body changes become symbols."""
    assert before.shape is not None
    if after.shape is None or len(after.shape) != len(before.shape):
        return None
    result: list[Dim] = []
    for axis, (old, new) in enumerate(zip(before.shape, after.shape, strict=True)):
        if old is new:
            result.append(old)
        else:
            dim = node.state.fresh(f"{before.name}_dim_{axis}")
            symbols |= dim.symbols
            result.append(dim)
    return tuple(result)


Known = Callable[[Value], Sequence[Any] | None]
"""Elements of a value where they are known."""


def runs_all(node: Node, body: Graph, known: Known) -> bool:
    """Whether nothing ends a Loop before its last iteration."""

    def holds(condition: Value) -> bool:
        elements = known(condition)
        return elements is not None and len(elements) == 1 and elements[0] == 1

    first, after = node.input(1), _unchanged(body.outputs[0])
    return (first is None or holds(first)) and (after is body.inputs[1] or holds(after))


def _unchanged(value: Value) -> Value:
    """The value itself, in front of nodes that return it as it is."""
    while value.producer is not None and value.producer.op == "Identity":
        source = value.producer.input(0)
        assert source is not None
        value = source
    return value


def _trip_count(node: Inference, body: Graph) -> Dim | None:
    """Number of iterations where nothing can end the loop early."""

    def known(value: Value) -> Sequence[Any] | None:
        found = node.state.known(value)
        return None if found is None else found.reshape(-1).tolist()

    if not node.has(0) or not runs_all(node.node, body, known):
        return None
    try:
        trips = node.scalar(0)
    except Unknown:
        return None
    return maximum(trips, Dim.of(0))


@rule("Scan")
def _scan(node: Inference) -> None:
    body = node.attribute("body")
    scans = node.attribute("num_scan_inputs")
    # Scan-8 begins with optional sequence lengths, and all its values have a batch axis in front.
    first = 1 if node.version < 9 else 0
    states = len(node.node.inputs) - first - scans
    actual = [node.value(index) for index in range(first, len(node.node.inputs))]
    if states < 0 or len(body.inputs) != len(actual) or len(body.outputs) < states:
        node.error("the body's inputs and outputs do not match the scanned and carried values")
    axes = node.attribute("scan_input_axes") or [0] * scans
    steps: Dim | None = None
    for position, (formal, value) in enumerate(
        zip(body.inputs[states:], actual[states:], strict=True)
    ):
        formal.kind, formal.dtype, formal.shape = "tensor", value.dtype, None
        if value.shape is None:
            continue
        shape = value.shape[first:]
        axis = node.axis(axes[position], len(shape))
        steps = (
            shape[axis]
            if steps is None
            else node.require_equal(steps, shape[axis], "the scanned axes")
        )
        formal.shape = (*shape[:axis], *shape[axis + 1 :])
    initial = actual[:states]
    if first:
        initial = [
            Value(v.name, v.dtype, None if v.shape is None else v.shape[1:]) for v in initial
        ]
    local = _fixed_point(node, body, initial, body.inputs[:states], body.outputs[:states])
    batch = actual[-1].shape[:1] if first and actual[-1].shape else ()
    for output in range(states):
        _merge(node, output, [initial[output], body.outputs[output]], local)
        target = node.node.outputs[output]
        if target.shape is not None:
            target.shape = (*batch, *target.shape)
    out_axes = node.attribute("scan_output_axes") or [0] * (len(body.outputs) - states)
    for output in range(states, len(node.node.outputs)):
        inner = body.outputs[output]
        node.output(output, dtype=inner.dtype)
        if inner.shape is None or steps is None:
            continue
        rest = _outside(node, output, inner.shape, local)
        axis = node.axis(out_axes[output - states], len(rest) + 1)
        node.output(output, (*batch, *rest[:axis], steps, *rest[axis:]))
