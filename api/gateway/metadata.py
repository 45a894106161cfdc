"""Health, metadata, configuration and statistics of the server and its models."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from api.gateway.route import json_response
from api.gateway.state import Gateway, server_version
from api.protocol.datatypes import datatype_of
from cluster.catalog import ServedModel
from cluster.description import TensorDescription

PLATFORM = "onnx_onnxv1"
EXTENSIONS = (
    "binary_tensor_data",
    "sequence",
    "model_repository",
    "model_configuration",
    "schedule_policy",
    "parameters",
    "statistics",
)
_CONFIG_TYPES = {"BYTES": "STRING"}


class MetadataRoutes:
    """Answers everything about the server and its models that is only read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def live(self, request: Request) -> Response:
        """Answer while the process runs."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer 200 once every model serves, 503 before and while shutting down."""
        ready = self._gateway.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def healthz(self, request: Request) -> Response:
        """Readiness in the form that KubeRay's probes look for."""
        if self._gateway.ready:
            return Response("success", media_type="text/plain")
        return Response("not ready", 503, media_type="text/plain")

    async def server(self, request: Request) -> Response:
        """Name, version and protocol extensions of the server."""
        return json_response(
            {"name": "packhorse", "version": server_version(), "extensions": EXTENSIONS}
        )

    async def model_ready(self, request: Request) -> Response:
        """Answer 200 if the model serves."""
        return json_response({"name": self._find(request).name, "ready": True})

    async def model(self, request: Request) -> Response:
        """Inputs and outputs of a model; -1 stands for any size."""
        model = self._find(request)
        return json_response(
            {
                "name": model.name,
                "versions": self._gateway.catalog.versions(model.name),
                "platform": PLATFORM,
                "inputs": [_tensor(tensor) for tensor in model.description.inputs],
                "outputs": [_tensor(tensor) for tensor in model.description.outputs],
            }
        )

    async def config(self, request: Request) -> Response:
        """Configuration of a model in Triton's terms."""
        model = self._find(request)
        description = model.description
        rows = model.config.max_batch_size or self._gateway.settings.max_batch_size
        batched = description.batch_axis
        queue = model.config.max_queue or self._gateway.settings.max_queue
        timeout_s = model.config.timeout_s or self._gateway.settings.request_timeout_s
        content: dict[str, Any] = {
            "name": model.name,
            "platform": PLATFORM,
            "backend": "packhorse",
            "version_policy": {
                "specific": {
                    "versions": [int(v) for v in self._gateway.catalog.versions(model.name)]
                }
            },
            "max_batch_size": rows if batched else 0,
            "input": [_config_tensor(tensor, batched) for tensor in description.inputs],
            "output": [_config_tensor(tensor, batched) for tensor in description.outputs],
            "instance_group": [{"name": model.name, "kind": "KIND_CPU", "count": 1}],
            "default_model_filename": "model.onnx",
            "parameters": {
                "batching": {"string_value": description.batch_reason},
                "ragged": {"string_value": "" if model.ragged is None else model.ragged.length},
            },
        }
        if batched:
            content["dynamic_batching"] = {
                "max_queue_delay_microseconds": 0,
                "default_queue_policy": {
                    "max_queue_size": queue,
                    "default_timeout_microseconds": round(timeout_s * 1e6),
                    "timeout_action": "REJECT",
                    "allow_timeout_override": True,
                },
            }
        return json_response(content)

    async def statistics(self, request: Request) -> Response:
        """Counts and durations of one model version, of one model, or of all models."""
        name = request.path_params.get("model")
        if name is None:
            models = self._gateway.catalog.served()
        elif "version" in request.path_params:
            models = [self._find(request)]
        else:
            self._find(request)
            models = [model for model in self._gateway.catalog.served() if model.name == name]
        return json_response({"model_stats": [self._model_statistics(model) for model in models]})

    def _model_statistics(self, model: ServedModel) -> dict[str, Any]:
        memory = self._gateway.channel.stats(model.key).get("weight_bytes", 0)
        return self._gateway.statistics.of(model.name, model.version).json(int(memory))

    def _find(self, request: Request) -> ServedModel:
        path = request.path_params
        return self._gateway.catalog.find(path["model"], path.get("version"))


def _tensor(tensor: TensorDescription) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": datatype_of(tensor.dtype),
        "shape": [dim if isinstance(dim, int) else -1 for dim in tensor.shape],
    }


def _config_tensor(tensor: TensorDescription, batched: bool) -> dict[str, Any]:
    datatype = datatype_of(tensor.dtype)
    dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{_CONFIG_TYPES.get(datatype, datatype)}",
        "dims": dims[1:] if batched else dims,
    }
