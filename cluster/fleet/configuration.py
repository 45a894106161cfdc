"""The file that describes a fleet: Ray Serve's own format, read strictly.

`serve deploy FILE`, the dashboard's REST API and KubeRay take the file as it is; `args` are ours
and are checked when the application is built, wherever that happens. Serve itself accepts unknown
keys silently in most places (measured with 2.60: `num_replica: 3` passes), so `packhorse fleet`
reads the whole file by the models below, which refuse them by name. They cover what makes sense for
a fleet; what is missing on purpose would work against it, as autoscaling by requests that Serve
never sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from cluster.errors import FleetError
from cluster.topology.slots import Boundary

APPLICATION: Final = "cluster.fleet.application:build"
"""Import path of the application; how a file shows that it is for us."""

WORKER: Final = "Worker"
DIRECTORY: Final = "Directory"
DIRECTORY_PORT: Final = 8470
MAX_BYTES: Final = 1 << 20

Port = Annotated[int, Field(ge=0, le=65535)]
_Model = TypeVar("_Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FleetArguments(_Strict):
    """What the fleet serves and how its workers run: `args` of the application."""

    repository: str = Field(
        description="Model file, folder or repository, under the same path on every worker."
    )
    slots: Boundary | PositiveInt = Field(
        default="node",
        description="Where workers run: one per machine, socket, node, cache or core, or a number "
        "of slots that each machine is cut into.",
    )
    smt: bool = Field(default=True, description="Whether sibling CPUs of a core all run threads.")
    listen: str = Field(
        default="127.0.0.1",
        description="Address that workers and the directory listen on; 0.0.0.0 where gateways or "
        "workers are on other machines.",
    )
    port: Port = Field(
        default=0,
        description="First port of a machine's workers, one each in the order of its slots; "
        "0 takes free ones.",
    )
    directory_port: Port = Field(default=DIRECTORY_PORT, description="Port of the directory.")
    advertise: str | None = Field(
        default=None, description="Host under which others reach workers, if not `listen`."
    )
    sockets: str | Literal[False] | None = Field(
        default=None,
        description="Folder of the sockets for gateways on the worker's machine, closed to other "
        "users; default: one of this user's; false: none, gateways use tcp everywhere.",
    )
    secret_file: str | None = Field(
        default=None,
        description="File with the fleet's shared secret; default: PACKHORSE_FLEET_SECRET, or a "
        "file of this user that is made at first use.",
    )
    leases: str | None = Field(
        default=None, description="Folder of the leases on cores; default: /tmp/packhorse-cores."
    )
    isa: Literal["baseline", "avx2", "avx512"] | None = Field(
        default=None, description="Use at most this instruction set."
    )
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None,
        description="In which type products of models multiply whose model.yaml does not say; "
        "default: fp32.",
    )
    cache_dir: str | None = Field(default=None, description="Folder of the compiled code.")
    refine: bool = Field(
        default=False,
        description="Measure other schedules of what is asked for most while the engine is idle, "
        "and keep those that are faster; bytes stay the same.",
    )
    depth: PositiveInt = Field(default=1, description="Batches that a worker runs at once.")
    credits: PositiveInt = Field(
        default=2, description="Batches that all gateways may have under way on a worker."
    )
    shared_bytes: NonNegativeInt = Field(
        default=256 << 20, description="Shared memory for answers, per worker and gateway."
    )
    patience_s: NonNegativeFloat = Field(
        default=10, description="How long a worker waits for a slot that is leased."
    )
    drain_s: PositiveFloat = Field(
        default=20, description="How long a worker that ends goes on answering."
    )
    stall_s: NonNegativeFloat = Field(
        default=10,
        description="Seconds without progress of the engine after which a run counts as stuck and "
        "its worker ends; 0: never.",
    )
    run_limit_s: NonNegativeFloat = Field(
        default=60,
        description="Seconds after which a run whose deadline has passed, too, ends its worker; "
        "0: never.",
    )
    standby: bool = Field(
        default=True,
        description="Whether every worker keeps a process that stands in when it is killed.",
    )


class ActorOptions(_Strict):
    """`ray_actor_options` of a deployment."""

    num_cpus: NonNegativeFloat | None = None
    memory: NonNegativeFloat | None = None
    resources: dict[str, NonNegativeFloat] | None = None
    runtime_env: dict[str, Any] | None = None
    label_selector: dict[str, str] | None = None


class DeploymentOptions(_Strict):
    """One entry of `deployments`."""

    name: Literal["Worker", "Directory"]
    num_replicas: PositiveInt | None = None
    max_replicas_per_node: PositiveInt | None = None
    ray_actor_options: ActorOptions | None = None
    health_check_period_s: PositiveFloat | None = None
    health_check_timeout_s: PositiveFloat | None = None
    graceful_shutdown_timeout_s: NonNegativeFloat | None = None
    graceful_shutdown_wait_loop_s: NonNegativeFloat | None = None
    rolling_update_percentage: PositiveInt | None = None


class FleetApplication(_Strict):
    """The fleet among the file's applications."""

    name: str = Field(default="packhorse", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    import_path: Literal["cluster.fleet.application:build"] = APPLICATION
    route_prefix: None = None
    external_scaler_enabled: Literal[True] = True
    runtime_env: dict[str, Any] | None = None
    args: FleetArguments
    deployments: list[DeploymentOptions] = Field(default_factory=list)


class LoggingOptions(_Strict):
    """`logging_config`: Serve's own logs."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None
    encoding: Literal["TEXT", "JSON"] | None = None
    logs_dir: str | None = None
    enable_access_log: bool | None = None


class FleetFile(_Strict):
    """A whole file: one fleet."""

    proxy_location: Literal["Disabled"] = "Disabled"
    logging_config: LoggingOptions | None = None
    applications: list[FleetApplication] = Field(min_length=1, max_length=1)

    @property
    def application(self) -> FleetApplication:
        """The fleet's application."""
        return self.applications[0]

    @property
    def workers(self) -> int:
        """Workers to start with."""
        options = self.deployment(WORKER)
        return (options.num_replicas if options is not None else None) or 1

    def deployment(self, name: str) -> DeploymentOptions | None:
        """The entry of a deployment, None where all is left to the defaults."""
        return next((one for one in self.application.deployments if one.name == name), None)

    def serve_config(self) -> dict[str, Any]:
        """The file as Serve's REST API takes it."""
        return self.model_dump(mode="json", exclude_none=True) | {
            "applications": [
                {
                    **self.application.model_dump(mode="json", exclude_none=True),
                    # Without it Serve takes "/" and wants an HTTP ingress.
                    "route_prefix": None,
                }
            ]
        }

    def with_workers(self, count: int) -> FleetFile:
        """The same fleet with another number of workers."""
        kept = [one for one in self.application.deployments if one.name != WORKER]
        before = self.deployment(WORKER) or DeploymentOptions(name="Worker")
        changed = before.model_copy(update={"num_replicas": count})
        return self._with(self.application.model_copy(update={"deployments": [changed, *kept]}))

    def with_arguments(self, **changes: Any) -> FleetFile:
        """The same fleet with some of its arguments changed."""
        checked = parse_arguments(self.application.args.model_dump() | changes)
        return self._with(self.application.model_copy(update={"args": checked}))

    def _with(self, application: FleetApplication) -> FleetFile:
        return self.model_copy(update={"applications": [application]})


def describe(repository: Path, **arguments: Any) -> FleetFile:
    """A fleet that serves `repository`, everything else by default or as given."""
    values = {"repository": str(repository.absolute()), **arguments}
    return FleetFile(applications=[FleetApplication(args=parse_arguments(values))])


def parse_arguments(data: Any) -> FleetArguments:
    """Check the `args` of a fleet; raises `FleetError` naming what is wrong."""
    return _validated(FleetArguments, data, "the fleet's arguments")


def read_file(path: Path) -> FleetFile:
    """Read a fleet's file; raises `FleetError` naming every key that is wrong.

    A relative `repository` is meant from the current folder, as `serve deploy` takes it from the
    one that Ray was started in.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FleetError(f"{path}: larger than {MAX_BYTES} bytes")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise FleetError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise FleetError(f"{path}: must be a mapping of keys to values")
    fleet = _validated(FleetFile, data, str(path))
    repository = Path(fleet.application.args.repository).expanduser().absolute()
    return fleet.with_arguments(repository=str(repository))


def _validated(model: type[_Model], data: Any, source: str) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'the file'}: {detail['msg']}"
            for detail in error.errors()
        )
        raise FleetError(f"{source}: {problems}") from None
