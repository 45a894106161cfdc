"""The command `packhorse`: its subcommands, and how errors end it."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from api.cli import terminal
from api.cli.bench import bench
from api.cli.build import build
from api.cli.cache import cache
from api.cli.check import check
from api.cli.errors import CommandError
from api.cli.explain import explain
from api.cli.fleet import app as fleet
from api.cli.profile import profile
from api.cli.run import run
from api.cli.serve import serve
from api.cli.tune import tune
from api.cli.verify import verify
from api.settings import SettingsError
from cluster.errors import ClusterError
from engine.errors import EngineError

app = typer.Typer(
    name="packhorse",
    help="Serve ONNX models on CPUs, fast, at any input shape.",
    epilog="Start with: packhorse check",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, run, check, explain, profile, verify, bench, build, tune):
    app.command()(command)
app.add_typer(cache)
app.add_typer(fleet)


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.output.print(f"packhorse {version('packhorse')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Serve ONNX models on CPUs, fast, at any input shape."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for a failure, 2 for wrong usage."""
    try:
        app(arguments, prog_name="packhorse")
    except CommandError as error:
        terminal.print_error(str(error))
        sys.exit(error.code)
    except SettingsError as error:
        terminal.print_error(str(error))
        sys.exit(2)
    except (EngineError, ClusterError, OSError) as error:
        terminal.print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
