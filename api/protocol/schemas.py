"""Shapes of the protocol's JSON bodies, for the OpenAPI page only.

Requests are not validated with these: tensor payloads are decoded by the codec.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
    "BYTES",
]


class ErrorBody(BaseModel):
    """Body of every answer that is not 200."""

    error: str = Field(description="What was wrong, where, and what to do.")


class Liveness(BaseModel):
    """The process runs."""

    live: bool


class Readiness(BaseModel):
    """Whether every model of the repository serves."""

    ready: bool


class ModelReadiness(BaseModel):
    """The model serves."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """Name, version and protocol extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """One input or output of a model."""

    name: str
    datatype: Datatype
    shape: list[int] = Field(description="-1 stands for any size.")


class ModelMetadata(BaseModel):
    """Inputs and outputs of a model."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputParameters(BaseModel):
    """Parameters of an input tensor."""

    binary_data_size: int | None = Field(
        default=None,
        ge=0,
        description="Bytes of this tensor after the JSON part, in place of `data`.",
    )


class InputTensor(BaseModel):
    """A tensor of a request."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: InputParameters | None = None
    data: list[Any] | None = Field(default=None, description="Elements, flat or nested, row-major.")


class OutputParameters(BaseModel):
    """Parameters of a requested output."""

    binary_data: bool | None = Field(default=None, description="Send this output as binary data.")


class RequestedOutput(BaseModel):
    """An output to answer with."""

    name: str
    parameters: OutputParameters | None = None


class RequestParameters(BaseModel):
    """Parameters of a request; unknown ones are ignored."""

    model_config = ConfigDict(extra="allow")

    priority: int | None = Field(
        default=None, ge=0, description="1 is served first; 0 means the server's default."
    )
    timeout: int | None = Field(default=None, ge=0, description="Deadline in microseconds.")
    binary_data_output: bool | None = Field(
        default=None, description="Send outputs as binary data unless one says otherwise."
    )


class InferenceRequest(BaseModel):
    """Body, or JSON part of the body, of an inference request."""

    id: str | None = Field(default=None, description="Comes back in the answer.")
    parameters: RequestParameters | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = Field(
        default=None, description="All of them by default."
    )


class OutputTensor(BaseModel):
    """A tensor of an answer."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(default=None, description="Elements, flat, row-major.")


class InferenceResponse(BaseModel):
    """Body, or JSON part of the body, of an answer."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: bool = Field(default=False, description="Only models that serve.")


class IndexEntryBody(BaseModel):
    """A model version of the repository."""

    name: str
    version: str
    state: Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]
    reason: str = Field(description="Why it does not serve.")


class ManagementParameters(BaseModel):
    """Parameters of loading a model."""

    config: str | None = Field(
        default=None, description="JSON object with the keys of `model.yaml`, to use instead of it."
    )


class ManagementRequest(BaseModel):
    """Body of loading or unloading a model; may be empty."""

    parameters: ManagementParameters | None = None


class ModelStatisticsList(BaseModel):
    """Counts and durations per model version."""

    model_config = ConfigDict(protected_namespaces=())

    model_stats: list[dict[str, Any]] = Field(
        description="`inference_count` counts rows, `execution_count` batches."
    )
