"""Settings of the server; each can also be set by an environment variable.

`max_batch_size` is `PACKHORSE_MAX_BATCH_SIZE`, and so on. What the caller passes wins over the
environment, the environment over the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "PACKHORSE_"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class SettingsError(ValueError):
    """A setting has an unusable value; the message names it and its environment variable."""


class Settings(BaseModel):
    """Everything about a server that can be chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: Path = Field(
        default=Path("models"), description="Model file, folder or repository to serve."
    )
    model_name: str | None = Field(
        default=None, description="Name to serve a single model under, instead of its file's name."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    backlog: Count = Field(default=2048, description="Connections that may wait to be accepted.")
    keep_alive_s: Seconds = Field(default=75, description="How long an idle connection is kept.")

    fleet: bool = Field(
        default=False,
        description="Serve on a fleet of pinned workers under Ray, started for it on this machine.",
    )
    slots: str | None = Field(
        default=None,
        description="With a fleet, where workers run: one per machine, socket, node, cache or "
        "core, or a number of slots to cut this machine into; default: node.",
    )
    directory: str | None = Field(
        default=None,
        description="Join a fleet that is up, by HOST:PORT of its directory.",
    )
    fleet_secret_file: Path | None = Field(
        default=None, description="File with the fleet's shared secret."
    )

    threads: Count | None = Field(
        default=None, description="Threads per model; default: all usable CPUs."
    )
    isa: Literal["baseline", "avx2", "avx512"] | None = Field(
        default=None, description="Use at most this instruction set; default: the best the CPU has."
    )
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None,
        description="In which type products of models multiply whose model.yaml does not say; "
        "default: fp32.",
    )
    cache_dir: Path | None = Field(
        default=None, description="Folder of the compiled code; default: the user's cache folder."
    )
    refine: bool = Field(
        default=False,
        description="Measure other schedules of what is asked for most while the engine is idle, "
        "and keep those that are faster; bytes stay the same.",
    )

    workers: Path | None = Field(
        default=None,
        description="Folder in which workers announce themselves; default: the engine in this "
        "process.",
    )
    fleet_secret: str | None = Field(
        default=None, description="Shared secret for workers that are reached over tcp."
    )
    heartbeat_s: Seconds = Field(
        default=0.25,
        description="Time between heartbeats; a worker silent for four of them counts as dead.",
    )
    worker_wait_s: Seconds = Field(
        default=60, description="How long a model waits for the first worker to load it."
    )
    shared_memory_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="Most shared memory for requests: per worker of this machine, and once more "
        "for large ones; 0 for none.",
    )

    max_batch_size: Count = Field(default=32, description="Most rows in one batch.")
    max_queue: Count = Field(
        default=1024, description="Most requests that wait, per model version."
    )
    pipeline_depth: Count = Field(
        default=1, description="Batches in flight at once, over all models."
    )
    request_timeout_s: Seconds = Field(
        default=30,
        description="Deadline of a request that sets none, and the longest one it may set.",
    )
    default_priority: Count = Field(
        default=100, description="Priority of a request that sets none; 1 is served first."
    )

    sequence_idle_s: Seconds = Field(
        default=60, description="How long a sequence's state is kept after its last request."
    )
    max_sequences: Count = Field(
        default=10_000, description="Most sequences in progress; more are refused with 503."
    )
    max_sequence_bytes: Count = Field(
        default=1 << 30,
        description="Most bytes of states kept; beyond it the least recently used expire.",
    )

    max_body_bytes: Count = Field(
        default=64 << 20, description="Largest request body, decompressed."
    )
    max_buffered_bytes: Count = Field(
        default=1 << 30, description="Most bytes of request bodies held at one time."
    )
    max_json_depth: Count = Field(default=100, description="Deepest nesting of a JSON body.")
    max_elements: Count = Field(default=1 << 31, description="Most elements of one tensor.")
    body_timeout_s: Seconds = Field(
        default=60, description="How long a client may take to send its body."
    )

    drain_delay_s: float = Field(
        default=0,
        ge=0,
        description="How long a shutdown goes on accepting, as not ready, so that load balancers "
        "notice.",
    )
    drain_timeout_s: Seconds = Field(
        default=30, description="How long a shutdown waits for accepted requests."
    )
    exit_on_error: bool = Field(
        default=True, description="Stop if a model fails to load at the start."
    )
    management: Literal["local", "token", "off"] = Field(
        default="local",
        description="Who may load and unload models: clients on this machine, "
        "clients with the token, or nobody.",
    )
    management_token: str | None = Field(
        default=None, description="Bearer token for loading and unloading models."
    )
    metrics: bool = Field(default=True, description="Answer /metrics.")
    docs: bool = Field(default=True, description="Answer /docs and /openapi.json.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning", description="Least severe message to log."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Form of a log line.")
    access_log: bool = Field(default=False, description="Log every request, at level info.")


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting as a table shows it."""

    name: str
    variable: str
    kind: str
    default: str
    description: str


def list_settings() -> tuple[SettingInfo, ...]:
    """Every setting, in the order of their declaration."""
    return tuple(
        SettingInfo(
            name,
            PREFIX + name.upper(),
            _kind(field.annotation),
            "" if field.default is None else str(field.default),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    )


def read_settings(
    given: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings from `given` (None values count as not given) over the environment over defaults.

    Raises `SettingsError` for an unusable value and for an unknown name in `given`.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        text = environment.get(PREFIX + name.upper())
        if text is not None and text != "":
            values[name] = text
    values.update({name: value for name, value in (given or {}).items() if value is not None})
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(detail) for detail in error.errors())) from None
    if settings.fleet and settings.directory:
        raise SettingsError("a fleet is either started (fleet) or joined (directory), not both")
    if settings.management == "token" and not settings.management_token:
        raise SettingsError(
            f"management is 'token' but there is none; set {PREFIX}MANAGEMENT_TOKEN"
        )
    return settings


def _explain(detail: Any) -> str:
    name = str(detail["loc"][0])
    return f"{name} ({PREFIX}{name.upper()}) = {detail['input']!r}: {detail['msg']}"


def _kind(annotation: Any) -> str:
    options = getattr(annotation, "__args__", None)
    if annotation in (int, str, bool, float, Path):
        return str(annotation.__name__).lower()
    if not options:
        return str(annotation)
    kinds = [
        "" if option is type(None) else option if isinstance(option, str) else _kind(option)
        for option in options
    ]
    return " | ".join(kind for kind in kinds if kind)
