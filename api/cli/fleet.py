"""`packhorse fleet`: workers pinned to sockets under Ray, with a gateway in front."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from api.cli import terminal
from api.cli.errors import CommandError
from api.cli.fleet_start import described, ended, gateway_command, started
from api.cli.fleet_view import Rates, render
from cluster.fleet import local
from cluster.fleet.configuration import parse_arguments, read_file
from cluster.fleet.local import FleetRecord, recall
from cluster.fleet.processes import ProcessId
from cluster.fleet.ray_node import free_port, require_ray, slots_here
from cluster.fleet.secrets import state_folder

app = typer.Typer(
    name="fleet",
    help="Serve on many sockets and machines: workers pinned under Ray, a gateway in front.",
    no_args_is_help=True,
)
Name = Annotated[
    str | None, typer.Option("--name", help="The fleet; default: the only one.", show_default=False)
]


@app.command()
def up(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_REPOSITORY",
            help="A fleet's file, or what to serve: model file, folder or repository.",
        ),
    ],
    slots: Annotated[
        str | None,
        typer.Option(help="One per machine, socket, node, cache or core; or a number of slots."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers to start; default: the file's, or all slots.")
    ] = None,
    dashboard: Annotated[
        str | None, typer.Option(help="Join the Ray cluster with this dashboard address.")
    ] = None,
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard to start.")] = 8265,
    listen: Annotated[
        str | None, typer.Option(help="Address of workers and directory; 0.0.0.0 for all.")
    ] = None,
    places: Annotated[
        int | None,
        typer.Option(min=1, help="Workers that this machine may hold; default: one per slot."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway.")] = 8000,
    gateway: Annotated[bool, typer.Option(help="Start a gateway, too.")] = True,
) -> None:
    """Start a fleet in the background: Ray, pinned workers, a gateway.

    Example: packhorse fleet up model.onnx --slots 2
    """
    fleet = described(target, slots, listen=listen)
    record = started(
        fleet,
        workers=workers,
        dashboard=dashboard,
        dashboard_port=dashboard_port,
        places=places,
    )
    if gateway and not (record.gateway is not None and record.gateway.alive):
        record = _start_gateway(record, host, port)
    if record.gateway_url is not None:
        terminal.print_note(f"at {record.gateway_url} (try {record.gateway_url}/docs)")
    terminal.print_note("stop it with: packhorse fleet down")


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A fleet's file.")]) -> None:
    """Read a fleet's file strictly and say what it describes."""
    fleet = read_file(file)
    arguments = fleet.application.args
    terminal.output.print(
        f"{file}: fleet '{fleet.application.name}', {fleet.workers} workers, slots by "
        f"{arguments.slots}, serving {arguments.repository}"
    )


@app.command()
def status(
    name: Name = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between refreshes.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show workers, where they run, what they do; and the gateways."""
    require_ray()
    from cluster.fleet.status import FleetStatus, look  # needs the extra

    record = recall(name)
    rates = Rates()

    def shown(found: FleetStatus) -> RenderableType:
        width = terminal.output.width if terminal.output.is_terminal else None
        return render(found, time.monotonic(), rates, width)

    found = asyncio.run(look(record))
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    elif not watch:
        terminal.output.print(shown(found))
    else:
        with Live(shown(found), console=terminal.output, auto_refresh=False) as screen:
            while True:
                time.sleep(every)
                found = asyncio.run(look(record))
                screen.update(shown(found), refresh=True)
    if found.problems and not watch:
        raise CommandError("; ".join(found.problems))


@app.command()
def scale(
    workers: Annotated[int, typer.Argument(min=1, help="Workers to run.")],
    name: Name = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for them.")] = 60,
) -> None:
    """Run another number of workers."""
    record = recall(name)
    begin = time.monotonic()
    local.scale(record, workers, timeout)
    terminal.print_note(
        f"fleet '{record.name}' runs {workers} {'worker' if workers == 1 else 'workers'} "
        f"after {time.monotonic() - begin:.1f} s"
    )


@app.command()
def drain(
    target: Annotated[str, typer.Argument(help="A worker or a node, as `fleet status` names it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take it into service again.")] = False,
    name: Name = None,
) -> None:
    """Send a worker, or all of a node, no more batches; what it has is answered."""
    require_ray()
    from cluster.fleet.directory_client import ask  # needs the extra

    record = recall(name)
    request = {"do": "drain", "target": target, "wanted": not undo}
    answer = asyncio.run(ask(record.directory, record.secret, request))
    verb = "serve again" if undo else "get no more batches"
    terminal.print_note(f"{', '.join(answer['workers'])}: {verb}")


@app.command()
def node(
    places: Annotated[
        int | None, typer.Option(min=1, help="Workers it may hold; default: one per slot.")
    ] = None,
    name: Name = None,
) -> None:
    """Add a Ray node on this machine to the fleet."""
    record = recall(name)
    arguments = parse_arguments(record.control.arguments(record.name))
    grown = local.add_node(record, places or slots_here(arguments))
    terminal.print_note(f"fleet '{grown.name}' has {1 + len(grown.nodes)} Ray nodes here")


@app.command()
def down(name: Name = None) -> None:
    """Answer what was accepted, then end gateway, workers and Ray."""
    record = recall(name)
    ended(record)
    terminal.print_note(f"fleet '{record.name}' is down")


def _start_gateway(record: FleetRecord, host: str, port: int) -> FleetRecord:
    port = port or free_port()
    log = state_folder() / f"{record.name}-gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            gateway_command(record, host, port, []),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    shown = f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)
    url = f"http://{shown}:{port}"
    record = replace(record, gateway=ProcessId.of(process.pid), gateway_url=url)
    record.save()
    until = time.monotonic() + 60
    while not _ready(url):
        if process.poll() is not None or time.monotonic() >= until:
            ending = " ".join(log.read_text(errors="replace").split("\n")[-4:]).strip()
            raise CommandError(
                f"the gateway does not become ready: {ending or 'it said nothing'} (see {log}); "
                "the workers are up: packhorse fleet down ends them"
            )
        time.sleep(0.05)
    process.returncode = 0  # it outlives this command
    return record


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
