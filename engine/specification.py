"""What a model expects and gives: the public description of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.errors import InputError
from engine.graph.dims import Dim
from engine.graph.ir import Value
from engine.plan.measure import Measure, Requirement, check_known
from engine.shape_reader import ShapeReader

_KNOWN_SHAPES: Final = 4096
"""Combinations of input shapes whose sizes are remembered."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, data type and shape of an input or output.

    An int in `shape` is fixed, a str is a symbolic dim. Strings have dtype object. `kind` is
    ``tensor``, ``sequence`` (a list of arrays of `dtype`) or ``optional`` (None, an array or a
    list); the latter two have no shape.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    kind: str = "tensor"


@dataclass(frozen=True)
class Progress:
    """Step `done` of `total` of a stage of loading, such as ``compiling``."""

    stage: str
    done: int
    total: int


def specify(value: Value) -> TensorSpec:
    """Public description of a graph input or output."""
    dtype = value.dtype if value.dtype is not None else np.dtype(object)
    dims = value.shape or ()
    shape = tuple(d.value if d.is_constant else str(d) for d in dims)
    return TensorSpec(value.name, dtype, shape, value.kind)


class Arguments:
    """Checks the arrays of a request against the model's inputs and reads off the sizes.

    `guards` are what the sizes must fulfil. `measures` are the numbers of inputs that count as
    sizes. Shapes, with such numbers, that passed once are known from then on.
    """

    def __init__(
        self,
        model: str,
        inputs: tuple[Value, ...],
        guards: tuple[Requirement, ...] = (),
        measures: tuple[Measure, ...] = (),
    ) -> None:
        self._model = model
        self._values = {value.name: value for value in inputs}
        self._axes = {value.name: _axes(value) for value in inputs}
        self._guards = guards
        self._measures = measures
        # Where neither numbers nor guards come in, shapes of plain tensors say it all.
        self._plain = not guards and not measures and all(v.kind == "tensor" for v in inputs)
        places = {value.name: place for place, value in enumerate(inputs)}
        read = {v.name for m in measures for v in m.inputs if v is not None and v.data is None}
        self._measured = tuple(sorted(places[name] for name in read))
        # A data type that was unpickled is another object than numpy's own.
        self._expected = tuple(
            (v.name, None if v.dtype is None else np.dtype(v.dtype.type)) for v in inputs
        )
        self._known: dict[tuple[tuple[int, ...] | bytes, ...], dict[str, int]] = {}

    @property
    def open_guards(self) -> tuple[Requirement, ...]:
        """Guards of sizes that only a run tells."""
        known = {s for v in self._values.values() for dim in v.shape or () for s in dim.symbols}
        known |= {name for m in self._measures for pair in m.symbols for name in pair if name}
        return tuple(guard for guard in self._guards if not guard.symbols <= known)

    def reader(self, symbols: Sequence[str]) -> ShapeReader | None:
        """Reads these symbols off shapes, as `sizes` does; None where that takes more."""
        return ShapeReader.of(list(self._axes.values()), symbols) if self._plain else None

    def accept(self, inputs: Mapping[str, Any]) -> tuple[list[Any], dict[str, int]]:
        """C-contiguous arrays in the order of the model's inputs, and the size of every symbol.

        The sizes are shared between calls. Raises InputError that names the input and what it
        should be.
        """
        if len(inputs) == len(self._expected):
            arrays: list[Any] = []
            shapes: list[tuple[int, ...] | bytes] = []
            for name, dtype in self._expected:
                array = inputs.get(name)
                if (
                    array.__class__ is not np.ndarray
                    or array.dtype is not dtype
                    or not array.flags.c_contiguous
                ):
                    break
                arrays.append(array)
                shapes.append(array.shape)
            else:
                shapes += [arrays[place].tobytes() for place in self._measured]
                key = tuple(shapes)
                known = self._known.get(key)
                if known is None:
                    known = self.sizes(shapes)
                    if known is not None:
                        self._remember(key, known)
                if known is not None:
                    return arrays, known
        return self._checked(dict(inputs))

    def sizes(self, shapes: Sequence[Any]) -> dict[str, int] | None:
        """The size of every symbol for the shapes of all inputs.

        None where something does not fit, or shapes do not say it all.
        """
        if not self._plain:
            return None
        sizes: dict[str, int] = {}
        for axes, shape in zip(self._axes.values(), shapes, strict=True):
            if axes is not None and not _fits(axes, shape, sizes):
                return None
        return sizes

    def _remember(self, key: tuple[tuple[int, ...] | bytes, ...], sizes: dict[str, int]) -> None:
        if len(self._known) >= _KNOWN_SHAPES:
            self._known.clear()
        self._known[key] = sizes

    def _checked(self, arrays: dict[str, Any]) -> tuple[list[Any], dict[str, int]]:
        sizes = self._read(arrays)
        for measure in self._measures:
            given = [None if v is None else _given(v, arrays) for v in measure.inputs]
            measure.run(given, sizes, self._model)
        check_known(self._guards, sizes, self._model)
        ordered = [arrays[name] for name in self._values]
        if all(isinstance(array, np.ndarray) for array in ordered):
            key: list[tuple[int, ...] | bytes] = [array.shape for array in ordered]
            key += [ordered[place].tobytes() for place in self._measured]
            self._remember(tuple(key), sizes)
        return ordered, sizes

    def _read(self, arrays: dict[str, Any]) -> dict[str, int]:
        """Size of every symbol; makes `arrays` C-contiguous in place."""
        if arrays.keys() != self._values.keys():
            self._refuse_names(arrays)
        sizes: dict[str, int] = {}
        for name, value in self._values.items():
            array = arrays[name]
            if value.kind != "tensor":
                arrays[name] = self._container(array, value)
                continue
            if not isinstance(array, np.ndarray) or array.dtype != value.dtype:
                array = arrays[name] = self._converted(array, value)
            if not array.flags.c_contiguous:
                arrays[name] = np.ascontiguousarray(array)
            axes, shape = self._axes[name], array.shape
            if axes is None:
                continue
            if len(shape) != len(axes):
                raise self._error(value, f"has rank {len(shape)} and shape {shape}")
            if not _fits(axes, shape, sizes):
                raise self._error(value, f"has shape {shape}")
        return sizes

    def _container(self, given: Any, value: Value) -> Any:
        """A list for a sequence; None, an array or a list for an optional."""
        if given is None and value.kind == "optional":
            return None
        if isinstance(given, list | tuple):
            return [np.require(self._converted(item, value), requirements="C") for item in given]
        if value.kind == "sequence":
            raise self._error(value, f"is a {type(given).__name__}")
        return np.require(self._converted(given, value), requirements="C")

    def _converted(self, array: Any, value: Value) -> Any:
        if not isinstance(array, np.ndarray):
            array = np.asarray(array)
            if array.dtype.kind in "fiub" and value.dtype is not None:
                same_kind = np.can_cast(array.dtype, value.dtype, "same_kind")
                array = array.astype(value.dtype) if same_kind else array
        if value.dtype == object and array.dtype.kind in "OUS":
            return array.astype(object)
        if value.dtype is not None and array.dtype != value.dtype:
            raise self._error(value, f"has data type {array.dtype}")
        return array

    def _refuse_names(self, arrays: dict[str, Any]) -> None:
        known = ", ".join(self._values)
        for name in arrays:
            if name not in self._values:
                raise InputError(f"{self._model}: there is no input {name!r}; inputs are {known}")
        missing = next(name for name in self._values if name not in arrays)
        raise InputError(f"{self._model}: input {missing!r} is missing; inputs are {known}")

    def _error(self, value: Value, found: str) -> InputError:
        spec = specify(value)
        wanted = f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
        if spec.kind == "sequence":
            wanted = f"a list of {spec.dtype} arrays"
        elif spec.kind == "optional":
            wanted = f"None, or {spec.dtype} arrays"
        return InputError(f"{self._model}: input {value.name!r} {found}; expected {wanted}")


def _given(value: Value, arrays: Mapping[str, Any]) -> Any:
    return value.data if value.data is not None else arrays[value.name]


def _fits(axes: tuple[int | str | Dim, ...], shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape is what `axes` say; symbols met for the first time are added to `sizes`."""
    if len(shape) != len(axes):
        return False
    for axis, size in zip(axes, shape, strict=True):
        if isinstance(axis, str):
            fits = sizes.setdefault(axis, size) == size
        elif isinstance(axis, int):
            fits = axis == size
        else:
            fits = axis.evaluate(sizes) == size
        if not fits:
            return False
    return True


def _axes(value: Value) -> tuple[int | str | Dim, ...] | None:
    """What every axis must be: a number, a symbol (met for the first time, it takes the axis's
    size), or an expression of symbols."""
    if value.shape is None:
        return None
    return tuple(_axis(dim) for dim in value.shape)


def _axis(dim: Dim) -> int | str | Dim:
    if dim.is_constant:
        return dim.value
    name = str(dim)
    return name if dim.symbols == {name} else dim
