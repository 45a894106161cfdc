"""`packhorse serve`: the gateway with its engine in one process."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from api.cli import terminal
from api.cli.errors import CommandError, UsageError
from api.cli.fleet_start import fleet_for
from api.cli.request_example import request_example
from api.errors import StartError
from api.logs import configure_logging
from api.server import InferenceServer, ServerEvent
from api.settings import Settings, read_settings
from cluster.description import TensorDescription

PANELS = {
    name: panel
    for panel, names in {
        "Server": "model_name host port backlog keep_alive_s exit_on_error",
        "Fleet": "fleet slots directory workers fleet_secret fleet_secret_file heartbeat_s "
        "worker_wait_s shared_memory_bytes",
        "Engine": "threads isa precision cache_dir refine",
        "Batching": "max_batch_size max_queue pipeline_depth request_timeout_s default_priority "
        "drain_timeout_s",
        "Limits": "max_body_bytes max_buffered_bytes max_json_depth max_elements body_timeout_s",
        "Logs": "log_level log_format access_log",
    }.items()
    for name in names.split()
}
"""Headings under which `--help` lists the settings; others come under "More"."""


def with_settings(run: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    """A command with one option per setting of the server; `run` gets what was given.

    Every setting but the path becomes `--its-name`, with the description and default that
    `api.settings` declares for it, so that the two cannot drift apart.
    """

    def command(**given: Any) -> None:
        run(given)

    parameters = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = run.__doc__
    command.__name__ = run.__name__
    return command


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    base = _base(field.annotation)
    common: dict[str, Any] = {"help": field.description, "show_default": False}
    if name == "repository":
        info: Any = typer.Argument(metavar="PATH_OR_REPOSITORY", **common)
    else:
        if field.default is not None:
            common["help"] = f"{field.description} Default: {_default_text(field.default)}."
        flag = "--" + name.replace("_", "-")
        info = typer.Option(
            f"{flag}/--no-{flag[2:]}" if base is bool else flag,
            rich_help_panel=PANELS.get(name, "More"),
            **common,
        )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[base | None, info],
    )


def _base(annotation: Any) -> Any:
    """The type behind a setting's annotation, without bounds and without None."""
    while get_origin(annotation) not in (None, Literal):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _default_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


class Announcer:
    """Tells the user what the server does: progress, then the address and a request to try."""

    def __init__(self) -> None:
        self.server: InferenceServer | None = None
        self._stages = terminal.Stages()

    def __call__(self, event: ServerEvent) -> None:
        """Show one event."""
        if event.kind == "loading":
            self._stages.report(event.message, event.done, event.total, of=event.model)
            return
        self._stages.close()
        if event.kind == "failed":
            terminal.print_error(f"{event.model}: {event.message}")
        elif event.kind == "ready" and self.server is not None:
            self._announce(self.server)
        elif event.kind == "draining":
            terminal.print_note("answering what was accepted, then stopping ...")

    def _announce(self, server: InferenceServer) -> None:
        served = server.gateway.catalog.served()
        for model in served:
            description = model.description
            takes, gives = map(_signature, (description.inputs, description.outputs))
            terminal.print_note(f"serving {model.name} version {model.version}: {takes} -> {gives}")
        terminal.print_note(f"at {server.url} (try {server.url}/docs); stop with Ctrl-C")
        if served:
            first = served[0]
            example = request_example(server.url, first.name, first.description)
            terminal.print_note(f"\nA request to try:\n{example}\n")

    def close(self) -> None:
        """Remove what is still on the screen."""
        self._stages.close()


def _signature(tensors: tuple[TensorDescription, ...]) -> str:
    return ", ".join(f"{x.name} {x.dtype}{terminal.shape_text(x.shape)}" for x in tensors)


@with_settings
def serve(given: dict[str, Any]) -> None:
    """Serve a model file, a model's folder or a repository of models over HTTP.

    The protocol is the Open Inference Protocol v2, with binary tensors. A repository is a folder of
    NAME/VERSION/model.onnx. Every setting can also be given by an environment variable: PACKHORSE_
    and its name in capitals, for example PACKHORSE_MAX_BATCH_SIZE=64.

    With --fleet the models run on pinned workers under Ray, one per NUMA node or as --slots says;
    the path may then also be a fleet's file.

    Example: packhorse serve model.onnx --port 8000
    """
    settings = read_settings(given)
    if "repository" not in settings.model_fields_set:
        raise UsageError("say what to serve: packhorse serve model.onnx")
    configure_logging(settings.log_level, settings.log_format)
    announcer = Announcer()
    try:
        with fleet_for(settings) as settings:
            server = announcer.server = InferenceServer(settings, announcer)
            server.run()
            server.raise_failure()
    except StartError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        # Ctrl-C is how a server is meant to end; it has drained by now.
        return
    finally:
        announcer.close()
