"""RNN, GRU and LSTM in numpy for the fallback path.

The onnx package's reference implementation ignores sequence lengths, activations and clipping; this
one follows the operator specification (RNN-22, GRU-22, LSTM-22) in full. One matrix product per
time step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from engine.graph.ir import AnyArray

Activation = Callable[[AnyArray], AnyArray]
Step = Callable[[AnyArray, list[AnyArray]], list[AnyArray]]

_DEFAULTS: Final = {
    "RNN": ["Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
}

_FUNCTIONS: Final[dict[str, tuple[Callable[[AnyArray, float, float], Any], tuple[float, ...]]]] = {
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "elu": (lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), (1.0,)),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), (0.2, 0.5)),
    "leakyrelu": (lambda x, a, b: np.where(x < 0, a * x, x), (0.01,)),
    "relu": (lambda x, a, b: np.maximum(x, 0), ()),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), (1.0, 1.0)),
    "sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), ()),
    "softplus": (lambda x, a, b: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0), ()),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), ()),
    "tanh": (lambda x, a, b: np.tanh(x), ()),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), (1.0,)),
}
"""Function of x, alpha and beta, and the defaults of the parameters it has."""


def run_recurrent(
    op: str, attributes: Mapping[str, Any], inputs: Sequence[AnyArray | None]
) -> list[AnyArray]:
    """Outputs Y, Y_h (and Y_c of LSTM) of the operator `op`; missing inputs are None."""
    x, w, r = (_required(array) for array in inputs[:3])
    optional = [*inputs[3:], *[None] * (8 - len(inputs))]
    b, lengths, h0, c0, p = optional[:5]
    batch_first = bool(attributes.get("layout", 0))
    if batch_first:
        x = x.swapaxes(0, 1)
        h0 = None if h0 is None else h0.swapaxes(0, 1)
        c0 = None if c0 is None else c0.swapaxes(0, 1)
    steps, batch, _ = x.shape
    directions, hidden = r.shape[0], r.shape[2]
    names = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    backwards = names[attributes.get("direction", "forward")]
    if len(backwards) != directions:
        raise ValueError(f"weights of {directions} directions for {len(backwards)}")
    functions = _activations(op, attributes, directions)
    counts = np.full(batch, steps) if lengths is None else np.clip(lengths, 0, steps)
    zeros = np.zeros((batch, hidden), x.dtype)
    finals: list[list[AnyArray]] = []
    rows: list[AnyArray] = []
    for index, backward in enumerate(backwards):
        bias = np.zeros(2 * w.shape[1], x.dtype) if b is None else b[index]
        peephole = np.zeros(3 * hidden, x.dtype) if p is None else p[index]
        step = _CELLS[op](functions[index], attributes, r[index], bias, peephole)
        states = [zeros if h0 is None else h0[index]]
        if op == "LSTM":
            states.append(zeros if c0 is None else c0[index])
        order = _order(steps, counts, backward)
        projected = _reordered(x, order) @ w[index].T
        y, states = _scan(step, projected, states, counts)
        rows.append(_reordered(y, order))
        finals.append(states)
    outputs = [np.stack(rows, axis=1)]
    outputs += [np.stack(state, axis=0) for state in zip(*finals, strict=True)]
    if batch_first:
        outputs = [outputs[0].transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in outputs[1:])]
    return outputs


def _required(array: AnyArray | None) -> AnyArray:
    if array is None:
        raise ValueError("X, W and R are required")
    return array


def _scan(
    step: Step, projected: AnyArray, states: list[AnyArray], counts: AnyArray
) -> tuple[AnyArray, list[AnyArray]]:
    rows = np.zeros((len(projected), *states[0].shape), projected.dtype)
    for time, row in enumerate(projected):
        active = (time < counts)[:, None]
        fresh = step(row, states)
        rows[time] = np.where(active, fresh[0], 0)
        states = [np.where(active, new, old) for new, old in zip(fresh, states, strict=True)]
    return rows, states


def _order(steps: int, counts: AnyArray, backward: bool) -> AnyArray:
    """Time index read at each step, per batch row; its own inverse."""
    time = np.arange(steps)[:, None]
    return np.where(backward & (time < counts), counts - 1 - time, time)


def _reordered(array: AnyArray, order: AnyArray) -> AnyArray:
    taken: AnyArray = np.take_along_axis(array, order[:, :, None], axis=0)
    return taken


def _activations(op: str, attributes: Mapping[str, Any], directions: int) -> list[list[Activation]]:
    """Activations per direction; parameters are consumed in the order of the functions.

    Clipping bounds the inputs of all but the activation of LSTM's cell state (as in onnxruntime).
    """
    names = attributes.get("activations") or _DEFAULTS[op] * directions
    alphas = list(attributes.get("activation_alpha") or [])
    betas = list(attributes.get("activation_beta") or [])
    bound = attributes.get("clip")
    made: list[Activation] = []
    for name in names:
        if name.lower() not in _FUNCTIONS:
            raise ValueError(f"activation {name!r} is unknown")
        function, defaults = _FUNCTIONS[name.lower()]
        alpha = defaults[0] if defaults else 0.0
        beta = defaults[1] if len(defaults) > 1 else 0.0
        if defaults and alphas:
            alpha = alphas.pop(0)
        if len(defaults) > 1 and betas:
            beta = betas.pop(0)
        cell_output = op == "LSTM" and len(made) % 3 == 2
        made.append(_bounded(function, alpha, beta, None if cell_output else bound))
    count = len(_DEFAULTS[op])
    if len(made) != count * directions:
        raise ValueError(f"{len(made)} activations instead of {count * directions}")
    return [made[i : i + count] for i in range(0, len(made), count)]


def _bounded(
    function: Callable[[AnyArray, float, float], Any], alpha: float, beta: float, bound: Any
) -> Activation:
    if bound is None:
        return lambda x: np.asarray(function(x, alpha, beta), x.dtype)
    return lambda x: np.asarray(function(np.clip(x, -bound, bound), alpha, beta), x.dtype)


def _rnn(
    functions: list[Activation],
    attributes: Mapping[str, Any],
    r: AnyArray,
    bias: AnyArray,
    peephole: AnyArray,
) -> Step:
    total = np.add(*np.split(bias, 2))

    def step(row: AnyArray, states: list[AnyArray]) -> list[AnyArray]:
        return [functions[0](row + states[0] @ r.T + total)]

    return step


def _gru(
    functions: list[Activation],
    attributes: Mapping[str, Any],
    r: AnyArray,
    bias: AnyArray,
    peephole: AnyArray,
) -> Step:
    """Gates in the order z, r, h."""
    f, g = functions
    r_zr, r_h = np.split(r, [2 * len(r) // 3])
    w_bias, r_bias = np.split(bias, 2)
    zr_bias = (w_bias + r_bias)[: len(r_zr)]
    w_h, r_h_bias = w_bias[len(r_zr) :], r_bias[len(r_zr) :]
    linear = bool(attributes.get("linear_before_reset", 0))

    def step(row: AnyArray, states: list[AnyArray]) -> list[AnyArray]:
        (h,) = states
        row_zr, row_h = np.split(row, [len(zr_bias)], axis=-1)
        update, reset = np.split(f(row_zr + h @ r_zr.T + zr_bias), 2, axis=-1)
        if linear:
            candidate = g(row_h + reset * (h @ r_h.T + r_h_bias) + w_h)
        else:
            candidate = g(row_h + (reset * h) @ r_h.T + r_h_bias + w_h)
        return [(1 - update) * candidate + update * h]

    return step


def _lstm(
    functions: list[Activation],
    attributes: Mapping[str, Any],
    r: AnyArray,
    bias: AnyArray,
    peephole: AnyArray,
) -> Step:
    """Gates in the order i, o, f, c; peepholes in the order i, o, f."""
    f, g, h_function = functions
    total = np.add(*np.split(bias, 2))
    p_i, p_o, p_f = np.split(peephole, 3)
    coupled = bool(attributes.get("input_forget", 0))

    def step(row: AnyArray, states: list[AnyArray]) -> list[AnyArray]:
        h, c = states
        i, o, forget, candidate = np.split(row + h @ r.T + total, 4, axis=-1)
        i = f(i + p_i * c)
        forget = 1 - i if coupled else f(forget + p_f * c)
        c = forget * c + i * g(candidate)
        return [f(o + p_o * c) * h_function(c), c]

    return step


_CELLS: Final = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
