"""A small builder of ONNX graphs whose values can carry a sample through the construction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 17
IR_VERSION = 8

Array = NDArray[Any]
Dim = int | str


class GraphBuilder:
    """Collects nodes and weights of one graph; every value is named by a string.

    An input declared with a `sample` starts eager evaluation: each later node is run once, alone,
    by onnxruntime, and `samples` holds what it gave. Layers use that to set the running statistics
    of a BatchNormalization to those of the values that really arrive, as training would.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self.samples: dict[str, Array] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._weights: dict[str, Array] = {}
        self._names: dict[str, int] = {}

    def input(
        self, name: str, shape: Sequence[Dim], dtype: Any = np.float32, sample: Array | None = None
    ) -> str:
        """Declare a graph input; strings in `shape` are symbolic dims."""
        self._inputs.append(_value_info(name, shape, dtype))
        if sample is not None:
            self.samples[name] = sample
        return name

    def output(self, name: str, value: str, shape: Sequence[Dim], dtype: Any = np.float32) -> None:
        """Declare graph output `name` and let the node that makes `value` write it."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for position, used in enumerate(names):
                    if used == value:
                        names[position] = name
        if value in self.samples:
            self.samples[name] = self.samples.pop(value)
        self._outputs.append(_value_info(name, shape, dtype))

    def weight(self, array: Array, hint: str = "weight") -> str:
        """Add an initializer and return its name."""
        name = self._fresh(hint)
        self._weights[name] = array
        return name

    def gaussian(self, shape: Sequence[int], fan_in: float, gain: float = 1.0) -> Array:
        """Weights of variance gain**2 / fan_in (He et al. 2015, arXiv 1502.01852, section 2.2)."""
        scale = np.float32(gain / np.sqrt(fan_in))
        return self.rng.standard_normal(tuple(shape), dtype=np.float32) * scale

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        return self.node(op_type, inputs, 1, attributes)[0]

    def node(
        self, op_type: str, inputs: Sequence[str], outputs: int, attributes: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Append a node of several outputs; an empty input name leaves an optional input out."""
        produced = tuple(self._fresh(op_type.lower()) for _ in range(outputs))
        node = helper.make_node(op_type, list(inputs), list(produced), name=produced[0])
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self._nodes.append(node)
        if any(name in self.samples for name in inputs):
            self._evaluate(node)
        return produced

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            [numpy_helper.from_array(array, name) for name, array in self._weights.items()],
        )
        return _wrap(graph)

    def _fresh(self, hint: str) -> str:
        count = self._names.get(hint, 0)
        self._names[hint] = count + 1
        return f"{hint}_{count}"

    def _evaluate(self, node: onnx.NodeProto) -> None:
        import onnxruntime

        feeds = {
            name: self.samples[name] if name in self.samples else self._weights[name]
            for name in node.input
            if name
        }
        graph = helper.make_graph(
            [node],
            "single",
            [_value_info(name, array.shape, array.dtype) for name, array in feeds.items()],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            _wrap(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.samples.update(zip(node.output, session.run(list(node.output), feeds), strict=True))


def _value_info(name: str, shape: Sequence[Dim], dtype: Any) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, list(shape))


def _wrap(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="packhorse-benchmarks",
    )
