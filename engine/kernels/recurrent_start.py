"""The beginning of a recurrent layer: the kernel family ``recurrent_start``.

It writes the initial states into the planes of `engine.kernels.recurrent_cells` and clears the
memory of the teams.
"""

from __future__ import annotations

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.recurrent_cells import CELL, PLACE
from engine.kernels.strips import Lanes


def _layout(options: Options) -> Layout:
    ints = ["rows", "words", *PLACE.split()]
    for name in options["initial"]:
        ints.extend((f"{name}_d", f"{name}_b"))
    tensors = ["state", "shared", *options["initial"]]
    return Layout.of(" ".join(tensors), " ".join(ints))


def _build(symbol: str, target: Target, options: Options) -> str:
    """Initial states, or zeros; padding columns are zero. Items are directions."""
    k = KernelBuilder(symbol, target, _layout(options))
    lanes = Lanes(k, "float32")
    n = {name: k.int(name) for name, f in k.layout.fields.items() if f.kind == "int"}
    state, shared = k.tensor("state"), k.tensor("shared")
    given = {name: k.tensor(name) for name in options["initial"]}
    with k.when(k.begin.equals(0)), k.loop(0, n["words"]) as word:
        k.store(k.const(0), shared + word * 8)

    def fill(target: Val, source: Val | None) -> None:
        lanes.sweep(n["padded"], 1, lambda part: part.store(lanes.fill(0), target))
        if source is not None:
            lanes.sweep(n["hidden"], 1, lambda part: part.store(part.load(source), target))

    with k.loop(k.begin, k.end) as direction, k.loop(0, n["rows"]) as row:
        for name, plane in (("h0", 0), ("c0", CELL)):
            if name == "c0" and options["cell"] != "lstm":
                continue
            to = state + n["plane"] * plane + (direction * n["rows"] + row) * n["pitch"]
            source = None
            if name in given:
                shift = direction * n[f"{name}_d"] + row * n[f"{name}_b"]
                source = given[name] + shift * 4
            fill(to, source)
    k.ret()
    return str(k.module)


register(Family("recurrent_start", "initial states of recurrent layers", _layout, _build))
