"""The fleet as a Ray Serve application: one replica per worker, and one directory.

The only module that imports Ray. It uses APIs that Serve calls alpha (the rank of a replica, the
external scaler) and the resource name of the head node; `KNOWN_RAY` lists the releases it is known
to work on, and a test holds the installed one against it. Serve routes no request: gateways send
batches to the workers' own endpoints, so `proxy_location` is `Disabled`, and Serve's view of load
(always idle) must not scale anything.

Ray Serve calls `build` with the `args` of the file, wherever the file was deployed from.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Gauge

from cluster.fleet.configuration import DIRECTORY, WORKER, FleetArguments, parse_arguments
from cluster.fleet.directory import Directory
from cluster.fleet.secrets import fleet_secret
from cluster.fleet.worker import FleetWorker

logger = logging.getLogger("ray.serve")

KNOWN_RAY: Final = ("2.60",)
"""Releases on which the alpha APIs used here are known to behave as needed."""

HEAD: Final = "node:__internal_head__"
"""A resource that exactly the head node has; Serve places its controller by it, too."""

SLOT_RESOURCE: Final = "socket"
"""What a node offers one of per worker it can hold."""

_COUNTERS: Final = ("batches", "failed_batches", "busy_seconds", "running", "waiting")


def build(args: dict[str, Any]) -> serve.Application:
    """The application; raises `FleetError`, which names unknown keys of `args`."""
    arguments = parse_arguments(args).model_dump()
    directory = DirectoryReplica.bind(arguments)  # type: ignore[attr-defined]
    application: serve.Application = WorkerReplica.bind(arguments, directory)  # type: ignore[attr-defined]
    return application


@serve.deployment(
    name=DIRECTORY,
    num_replicas=1,
    ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
    health_check_period_s=1,
    health_check_timeout_s=5,
    max_ongoing_requests=1000,
)
class DirectoryReplica:
    """The fleet's directory, on the head node."""

    # Serve awaits constructors that are coroutines.
    async def __init__(self, arguments: dict[str, Any]) -> None:  # type: ignore[misc]
        fleet = FleetArguments.model_validate(arguments)
        self._directory = Directory(fleet_secret(fleet.secret_file))
        bound = await self._directory.open(f"{fleet.listen}:{fleet.directory_port}")
        port = bound.rpartition(":")[2]
        host = fleet.listen
        if host in ("0.0.0.0", "::"):
            host = _node_address()
        self._address = f"{host}:{port}"
        self._watch = asyncio.create_task(self._compare(serve.get_replica_context().app_name))

    async def address(self) -> str:
        """Where workers reach it, as `HOST:PORT`."""
        return self._address

    async def _compare(self, application: str, every_s: float = 1.0) -> None:
        """Tell workers that stand in whether Serve still wants successors."""
        while True:
            await asyncio.sleep(every_s)
            if not self._directory.register.any_stands_in():
                self._directory.complete = False
                continue
            try:
                self._directory.complete = await asyncio.to_thread(_complete, application)
            except Exception:
                # Serve's controller is away: nobody starts successors, so stand-ins stay.
                logger.exception("Serve does not say what runs")
                self._directory.complete = False

    async def __del__(self) -> None:
        self._watch.cancel()
        await self._directory.close()


@serve.deployment(
    name=WORKER,
    num_replicas=1,
    ray_actor_options={"num_cpus": 1, "resources": {SLOT_RESOURCE: 1}},
    # A worker that dies is replaced after one such period.
    health_check_period_s=1,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=30,
)
class WorkerReplica:
    """One worker. Everything it does is in `FleetWorker`; this connects it with Ray."""

    async def __init__(  # type: ignore[misc]
        self, arguments: dict[str, Any], directory: DeploymentHandle[Any]
    ) -> None:
        context = serve.get_replica_context()

        async def resolve() -> str:
            return str(await directory.address.remote())

        self._worker = FleetWorker(
            FleetArguments.model_validate(arguments),
            fleet=context.app_name,
            node=_node_name(),
            resolve=resolve,
        )
        # Only where to look first: ranks are given anew after a failure, leases are not.
        await self._worker.start(preferred=context.rank.local_rank)
        self._metrics = _Metrics(self._worker)

    async def check_health(self) -> None:
        """Called by Serve every period, on the loop that also serves the endpoint."""
        self._worker.check()

    async def report(self) -> dict[str, Any]:
        """What the worker is and does."""
        return self._worker.report()

    async def __del__(self) -> None:
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.close()
        await self._worker.close()


class _Metrics:
    """Hands a worker's report to Ray's metrics every few seconds."""

    def __init__(self, worker: FleetWorker, every_s: float = 5.0) -> None:
        self._worker = worker
        self._every_s = every_s
        self._gauges: dict[str, Gauge] = {}
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Report no more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                self._tell(self._worker.report())
            except Exception:
                logger.exception("metrics of worker '%s' failed", self._worker.name)
            await asyncio.sleep(self._every_s)

    def _tell(self, report: dict[str, Any]) -> None:
        tags = {"fleet": self._worker.fleet, "worker": self._worker.name}
        for name in _COUNTERS:
            self._set(f"packhorse_worker_{name}", report.get(name, 0), tags)
        self._set("packhorse_worker_threads", report.get("threads", 0), tags)
        self._set("packhorse_worker_stray_threads", len(report.get("strays", ())), tags)
        self._set("packhorse_worker_gateways", len(report.get("gateways", ())), tags)
        self._set("packhorse_worker_start_seconds", report.get("started_s", 0), tags)
        if report.get("local_pages") is not None:
            self._set("packhorse_worker_local_pages_ratio", report["local_pages"], tags)
        for model, counters in report.get("models", {}).items():
            name, _, version = model.rpartition("/")
            for counter, value in counters.items():
                of_model = {**tags, "model": name, "version": version}
                self._set(f"packhorse_worker_model_{counter}", value, of_model)

    def _set(self, name: str, value: float, tags: dict[str, str]) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            text = name.removeprefix("packhorse_").replace("_", " ")
            gauge = self._gauges[name] = Gauge(name, f"Of a Packhorse fleet: {text}.", tuple(tags))
        gauge.set(float(value), tags)


def _complete(application: str) -> bool:
    """Whether Serve has all the workers it wants: none that is starting or ending.

    Its word for the deployment does not tell: HEALTHY may have replicas that wait for a place.
    """
    states = serve.status().applications[application].deployments[WORKER].replica_states
    return {state.value for state, count in states.items() if count} <= {"RUNNING"}


def _node_address() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _node_name() -> str:
    """A short name of this Ray node that no other node of the cluster has."""
    context = ray.get_runtime_context()
    return f"{_node_address()}-{context.get_node_id()[:6]}"
