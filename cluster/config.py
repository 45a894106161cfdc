"""`model.yaml`: the configuration of one model in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from cluster.errors import RepositoryError
from cluster.precision import PrecisionChoice

MAX_CONFIG_BYTES = 1 << 20

Dimension = Annotated[int, Field(ge=0, le=1 << 40)]


class ModelConfig(BaseModel):
    """Settings of one model; unset ones follow the server's settings.

    Unknown keys are refused: a misspelt key must not silently do nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_batch_size: PositiveInt | None = Field(
        default=None, description="Most rows in one batch; 1 runs every request alone."
    )
    ragged: bool = Field(
        default=True,
        description="Requests of different lengths share a batch where the engine can do so "
        "without padding.",
    )
    max_queue: PositiveInt | None = Field(
        default=None, description="Most requests that wait; more are refused with 503."
    )
    timeout_s: PositiveFloat | None = Field(
        default=None, description="Deadline of a request that does not set one, in seconds."
    )
    threads: PositiveInt | None = Field(default=None, description="Threads of the model's session.")
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None,
        description="In which type products multiply; by default what the server is told.",
    )
    fp32_nodes: list[str] = Field(
        default_factory=list, description="Products that stay in fp32 where the model is in bf16."
    )
    bf16_first: NonNegativeInt | None = Field(
        default=None,
        description="Only so many products are in bf16, in the order of execution; for finding the "
        "one that costs accuracy.",
    )
    versions: Literal["latest", "all"] | list[PositiveInt] = Field(
        default="latest", description="Versions to serve: the highest, all of them, or a list."
    )
    state: dict[str, str] = Field(
        default_factory=dict,
        description="Inputs that carry state between the requests of a sequence, each with the "
        "output that is its next value.",
    )
    warmup: list[dict[str, list[Dimension]]] = Field(
        default_factory=list,
        description="Shapes to run once with zeros before the model serves: input name to shape.",
    )
    largest: dict[str, list[Dimension]] = Field(
        default_factory=dict,
        description="Largest shape admitted, by input name; larger requests are refused.",
    )

    @property
    def precision_choice(self) -> PrecisionChoice:
        """What the model asks of its precision."""
        return PrecisionChoice(self.precision, tuple(self.fp32_nodes), self.bf16_first)


def parse_config(data: Any, source: str) -> ModelConfig:
    """Validate a decoded mapping; `source` says in the error where it came from."""
    if data is None:
        return ModelConfig()
    if not isinstance(data, dict):
        raise RepositoryError(f"{source}: must be a mapping of keys to values")
    try:
        return ModelConfig.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
            for detail in error.errors()
        )
        allowed = ", ".join(ModelConfig.model_fields)
        raise RepositoryError(f"{source}: {problems} (allowed keys: {allowed})") from None


def read_config(path: Path) -> ModelConfig:
    """Read and validate a `model.yaml`; a missing file means all defaults."""
    if not path.is_file():
        return ModelConfig()
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise RepositoryError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RepositoryError(f"{path}: not valid YAML: {error}") from None
    return parse_config(data, str(path))
