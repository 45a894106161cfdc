"""Control flow of the fallback path: If, Loop, Scan and SequenceMap over callable bodies.

The bodies are functions from the list of a subgraph's inputs to the list of its outputs; values it
captures are bound already. Semantics follow the ONNX operator specification (Loop-13, Scan-9,
SequenceMap-17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Body = Callable[[list[Any]], list[Any]]

MOST_ITERATIONS = 1 << 24
"""Iterations after which a loop in Python counts as endless: at 20 us each, more than 5 minutes."""


def run_if(inputs: Sequence[Any], then_branch: Body, else_branch: Body) -> list[Any]:
    """Outputs of the branch that the condition (one boolean) selects."""
    condition = np.asarray(inputs[0])
    if condition.size != 1:
        raise ValueError(f"the condition has {condition.size} elements instead of one")
    return (then_branch if bool(condition.reshape(())) else else_branch)([])


def run_loop(
    inputs: Sequence[Any], body: Body, stacked: Sequence[tuple[tuple[int, ...], Any]]
) -> list[Any]:
    """Final carried values, then the stacked scan outputs, of a Loop.

    `inputs` are trip count and condition (None where omitted) and the initial carried values;
    `stacked` gives shape and data type per iteration of each scan output for a loop that ends
    before its first iteration.
    """
    limit = None if inputs[0] is None else int(np.asarray(inputs[0]).reshape(()))
    running = inputs[1] is None or bool(np.asarray(inputs[1]).reshape(()))
    carried = list(inputs[2:])
    rows: list[list[Any]] = [[] for _ in stacked]
    iteration = 0
    while running and (limit is None or iteration < limit):
        if iteration == MOST_ITERATIONS:
            raise ValueError(f"a loop does not end within {MOST_ITERATIONS} iterations")
        results = body([np.array(iteration, np.int64), np.array(running), *carried])
        running = bool(np.asarray(results[0]).reshape(()))
        carried = results[1 : 1 + len(carried)]
        for row, item in zip(rows, results[1 + len(carried) :], strict=True):
            row.append(item)
        iteration += 1
    scans = [
        np.stack(row) if row else np.empty((0, *shape), dtype)
        for row, (shape, dtype) in zip(rows, stacked, strict=True)
    ]
    return [*carried, *scans]


def run_scan(
    inputs: Sequence[Any],
    body: Body,
    scanned: int,
    input_axes: Sequence[int],
    input_directions: Sequence[int],
    output_axes: Sequence[int],
    output_directions: Sequence[int],
    stacked: Sequence[tuple[tuple[int, ...], Any]],
) -> list[Any]:
    """Final states, then the scan outputs, of a Scan over the last `scanned` inputs.

    Directions are 0 for forward, 1 for reverse; axes may be negative; `stacked` is as in
    `run_loop`.
    """
    states = list(inputs[: len(inputs) - scanned])
    sequences = [
        np.moveaxis(np.asarray(array), axis, 0)[:: -1 if backward else 1]
        for array, axis, backward in zip(
            inputs[len(states) :], input_axes, input_directions, strict=True
        )
    ]
    lengths = {len(sequence) for sequence in sequences}
    if len(lengths) != 1:
        raise ValueError(f"the scan inputs have different lengths {sorted(lengths)}")
    rows: list[list[Any]] = [[] for _ in stacked]
    for step in zip(*sequences, strict=True):
        results = body([*states, *step])
        states = results[: len(states)]
        for row, item in zip(rows, results[len(states) :], strict=True):
            row.append(item)
    outputs: list[Any] = []
    for index, row in enumerate(rows):
        if output_directions[index]:
            row.reverse()
        shape, dtype = stacked[index]
        array = np.stack(row) if row else np.empty((0, *shape), dtype)
        outputs.append(np.moveaxis(array, 0, output_axes[index]))
    return [*states, *outputs]


def run_old_scan(
    inputs: Sequence[Any],
    body: Body,
    scanned: int,
    directions: Sequence[int],
    stacked: Sequence[tuple[tuple[int, ...], Any]],
) -> list[Any]:
    """As `run_scan`, for Scan before opset 9: over axis 1, apart for each element of axis 0.

    Input 0 is None or the lengths of the sequences; what lies behind one is zero in the outputs.
    """
    values = [np.asarray(array) for array in inputs[1:]]
    states = len(values) - scanned
    longest = values[states].shape[1]
    lengths = [longest] * len(values[states]) if inputs[0] is None else inputs[0]
    zeros = [0] * max(scanned, len(stacked))
    results: list[list[Any]] = []
    for index, length in enumerate(lengths):
        own = [v[index] if i < states else v[index][:length] for i, v in enumerate(values)]
        outputs = run_scan(own, body, scanned, zeros[:scanned], directions, zeros, zeros, stacked)
        missing = longest - int(length)
        rows = [np.pad(o, [(0, missing)] + [(0, 0)] * (o.ndim - 1)) for o in outputs[states:]]
        results.append([*outputs[:states], *rows])
    return [np.stack(column) for column in zip(*results, strict=True)]


def run_sequence_map(inputs: Sequence[Any], body: Body, count: int) -> list[Any]:
    """`count` sequences of the body's outputs, one element per element of the first input."""
    results: list[list[Any]] = [[] for _ in range(count)]
    for index in range(len(inputs[0])):
        step = [item[index] if isinstance(item, list) else item for item in inputs]
        for sequence, item in zip(results, body(step), strict=True):
            sequence.append(item)
    return list(results)
