"""A whole fleet from one command: Ray started or joined, the application deployed, all of it ended.

What was started is written down in a file of this user, so that later commands find it again:
`packhorse fleet status`, `scale`, `drain` and `down`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.errors import FleetError
from cluster.fleet.configuration import FleetFile
from cluster.fleet.control import Control, FleetState
from cluster.fleet.processes import ProcessId, end_tree
from cluster.fleet.ray_node import (
    free_port,
    ray_environment,
    require_ray,
    slots_here,
    start_node,
)
from cluster.fleet.secrets import created, fleet_secret, state_folder

Step = Callable[[str], None]
"""Called with what is being done, for people."""


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What is remembered of a fleet between commands.

    `head` is the Ray node that was started for it, None where a cluster was joined; `nodes` are
    further ones on this machine; `gateway` the gateway that was started beside it.
    """

    name: str
    dashboard: str
    directory: str
    repository: str
    secret_file: str | None = None
    token_file: str | None = None
    ray_address: str | None = None
    head: ProcessId | None = None
    nodes: tuple[ProcessId, ...] = ()
    gateway: ProcessId | None = None
    gateway_url: str | None = None

    @property
    def control(self) -> Control:
        """Serve's REST API on the fleet's cluster."""
        token = None
        if self.token_file is not None:
            with suppress(OSError):
                token = Path(self.token_file).read_text(encoding="utf-8").strip()
        return Control(self.dashboard, token)

    @property
    def secret(self) -> str:
        """The fleet's shared secret."""
        return fleet_secret(self.secret_file)

    def save(self) -> None:
        """Remember it."""
        path = _path(self.name)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(path)

    def forget(self) -> None:
        """Remember it no more."""
        _path(self.name).unlink(missing_ok=True)


def recall(name: str | None = None) -> FleetRecord:
    """The fleet called `name`, by default the only one; raises `FleetError`."""
    names = sorted(path.stem for path in state_folder().glob("*.fleet"))
    if name is None:
        if len(names) != 1:
            known = ", ".join(names) or "none"
            raise FleetError(
                f"which fleet? Known on this machine: {known}; "
                + ("name one with --name" if names else "start one with: packhorse fleet up")
            )
        name = names[0]
    try:
        data: dict[str, Any] = json.loads(_path(name).read_text(encoding="utf-8"))
        for key in ("head", "gateway"):
            data[key] = None if data[key] is None else ProcessId(**data[key])
        data["nodes"] = tuple(ProcessId(**node) for node in data["nodes"])
        return FleetRecord(**data)
    except FileNotFoundError:
        known = ", ".join(names) or "none"
        raise FleetError(f"no fleet '{name}' was started here; known: {known}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FleetError(f"{_path(name)}: cannot be read: {error}; remove it") from None


def up(
    fleet: FleetFile,
    *,
    workers: int | None = None,
    dashboard: str | None = None,
    dashboard_port: int = 8265,
    places: int | None = None,
    timeout_s: float = 120,
    on_step: Step = lambda text: None,
) -> FleetRecord:
    """Start `fleet` and wait until its workers serve.

    Ray is started here, or joined where `dashboard` names the one of a running cluster. A fleet
    that is up already is brought to the new description. `workers` is by default what the
    description says, and one per place where it says nothing; `places` is how many a node that is
    started here may hold, by default one per slot. Raises `FleetError` or `PlacementError`; what
    was started for it has ended again then.
    """
    require_ray()
    application = fleet.application
    arguments = application.args
    secret_file = arguments.secret_file
    fleet_secret(secret_file)
    record = _known(application.name)
    if record is None and dashboard is not None:
        record = FleetRecord(
            application.name,
            dashboard,
            f"{_reached(arguments.listen)}:{arguments.directory_port}",
            arguments.repository,
            secret_file,
        )
    fresh = record is None
    if record is None:
        on_step("starting Ray")
        record = _start_ray(fleet, dashboard_port, places or slots_here(arguments))
        fleet = fleet.with_arguments(directory_port=int(record.directory.rpartition(":")[2]))
    record = replace(record, repository=arguments.repository, secret_file=secret_file)
    record.save()
    options = fleet.deployment("Worker")
    given = options.num_replicas if options is not None else None
    count = workers or given or places or slots_here(arguments)
    try:
        on_step(f"starting {count} {'worker' if count == 1 else 'workers'}")
        record.control.deploy(fleet.with_workers(count))
        record.control.wait(application.name, count, timeout_s)
    except BaseException:
        if fresh:
            down(record)
        raise
    return record


def scale(record: FleetRecord, workers: int, timeout_s: float) -> FleetState:
    """Run `workers` workers and wait for it; raises `FleetError` with Serve's reason."""
    record.control.scale(record.name, workers)
    until = time.monotonic() + timeout_s
    while True:
        state = record.control.state(record.name)
        present = [r for r in state.replicas if r.deployment == "Worker"] if state else []
        if state and state.running() == workers == len(present):
            return state
        if time.monotonic() >= until:
            reason = state.message if state else "the fleet has gone"
            raise FleetError(
                f"{workers} workers were asked for, {state.running() if state else 0} run after "
                f"{timeout_s:g} s: {reason or 'no slot is free for more'}"
            )
        time.sleep(0.05)


def down(record: FleetRecord, *, on_step: Step = lambda text: None) -> None:
    """End the gateway, the workers, and Ray where it was started for the fleet."""
    if record.gateway is not None and record.gateway.alive:
        on_step("stopping the gateway")
        end_tree(record.gateway, 40)
    on_step("stopping the workers")
    with suppress(FleetError):
        record.control.delete(record.name)
        _await_gone(record)
    if record.head is not None:
        on_step("stopping Ray")
        for node in (*record.nodes, record.head):
            end_tree(node, 15)
    record.forget()


def add_node(record: FleetRecord, places: int) -> FleetRecord:
    """Start one more Ray node of the fleet on this machine, which may hold `places` workers.

    Raises `FleetError` for a fleet whose Ray was not started here.
    """
    if record.ray_address is None or record.token_file is None:
        raise FleetError(
            f"fleet '{record.name}' runs on a cluster that was started elsewhere; "
            "start nodes there, with: ray start --address=... --resources='{\"socket\": N}'"
        )
    folder = state_folder()
    node = start_node(
        places=places,
        log=folder / f"{record.name}-node{len(record.nodes) + 1}.log",
        environment=ray_environment(Path(record.token_file)),
        join=record.ray_address,
        cpus=places,
    )
    grown = replace(record, nodes=(*record.nodes, node))
    grown.save()
    return grown


def _start_ray(fleet: FleetFile, dashboard_port: int, places: int) -> FleetRecord:
    folder = state_folder()
    arguments, name = fleet.application.args, fleet.application.name
    token_file = folder / "ray-token"
    created(token_file)
    port, dashboard = free_port(), free_port(wanted=dashboard_port)
    directory = free_port(wanted=arguments.directory_port)
    head = start_node(
        places=places,
        log=folder / f"{name}-ray.log",
        environment=ray_environment(token_file),
        port=port,
        dashboard_port=dashboard,
    )
    record = FleetRecord(
        name,
        f"http://127.0.0.1:{dashboard}",
        f"{_reached(arguments.listen)}:{directory}",
        arguments.repository,
        arguments.secret_file,
        str(token_file),
        f"127.0.0.1:{port}",
        head,
    )
    until = time.monotonic() + 60
    while not record.control.alive():
        if time.monotonic() >= until or not head.alive:
            end_tree(head, 5)
            raise FleetError(f"Ray's dashboard does not come up; see {folder / f'{name}-ray.log'}")
        time.sleep(0.05)
    return record


def _known(name: str) -> FleetRecord | None:
    """A fleet of that name whose cluster still runs."""
    try:
        record = recall(name)
    except FleetError:
        return None
    if record.head is not None and not record.head.alive:
        record.forget()
        return None
    return record


def _await_gone(record: FleetRecord, timeout_s: float = 40) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and record.control.state(record.name) is not None:
        time.sleep(0.1)


def _reached(listen: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(listen, listen)


def _path(name: str) -> Path:
    return state_folder() / f"{name}.fleet"
