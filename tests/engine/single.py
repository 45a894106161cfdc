"""Models of one node with symbolic sizes: through the engine, compared with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

import engine

Array = np.ndarray[Any, Any]


class Single:
    """A model of one node.

    `inputs` maps names to example arrays; those in `constants` become initialisers, the axes of the
    others are symbolic where the example is given with `symbolic`, but not those in `fixed`.
    Omitted inputs are named ``""``.
    """

    def __init__(
        self,
        op: str,
        inputs: dict[str, Array],
        *,
        order: Sequence[str] | None = None,
        constants: Sequence[str] = (),
        fixed: Sequence[str] = (),
        outputs: Sequence[str] = ("y",),
        opset: int = 21,
        domain: str = "",
        version: int = 1,
        symbolic: bool = True,
        isa: str | None = None,
        threads: int = 2,
        **attributes: Any,
    ) -> None:
        names = list(order) if order is not None else list(inputs)
        node = onnx.helper.make_node(op, names, list(outputs), domain=domain, **attributes)
        infos = []
        for name, array in inputs.items():
            if name in constants:
                continue
            free = symbolic and name not in fixed
            shape = [f"{name}{i}" if free else n for i, n in enumerate(array.shape)]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        graph = onnx.helper.make_graph(
            [node],
            op,
            infos,
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs if name],
            [onnx.numpy_helper.from_array(inputs[name], name) for name in constants],
        )
        imports = [onnx.helper.make_opsetid("", opset)]
        if domain:
            imports.append(onnx.helper.make_opsetid(domain, version))
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
        self.bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
        self.session = engine.load(self.bytes, threads=threads, isa=isa)
        self.outputs = [name for name in outputs if name]

    @property
    def native(self) -> bool:
        """Whether kernels run all of the model."""
        return self.session.explain().fallback_count == 0

    def run(self, **arrays: Array) -> list[Array]:
        """Outputs by the engine."""
        results = self.session.run(arrays)
        return [results[name] for name in self.outputs]

    def expected(self, **arrays: Array) -> list[Array]:
        """Outputs by onnxruntime."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        oracle = onnxruntime.InferenceSession(self.bytes, options)
        found: list[Array] = oracle.run(self.outputs, arrays)
        return found

    def check(self, **arrays: Array) -> None:
        """The engine's outputs equal onnxruntime's, and kernels computed them."""
        assert self.native, [f"{o.op}: {o.reason}" for o in self.session.explain().fallbacks]
        for found, wanted in zip(self.run(**arrays), self.expected(**arrays), strict=True):
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            if wanted.dtype.kind != "f":
                np.testing.assert_array_equal(found, wanted)
                continue
            finite = wanted[np.isfinite(wanted)]
            atol = 1e-4 * float(np.abs(finite).max(initial=0)) + 1e-5
            np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)
