"""`packhorse fleet`: what is understood, what is shown, what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("zmq", reason="needs packhorse[fleet]")

from api.cli.errors import UsageError
from api.cli.fleet_start import described, gateway_command
from api.cli.fleet_view import Rates, render
from api.cli.main import main
from cluster.errors import FleetError
from cluster.fleet.control import Replica
from cluster.fleet.local import FleetRecord, recall
from cluster.fleet.status import FleetStatus

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples/digits/digits.onnx"
WORKER: dict[str, Any] = {
    "worker": "10.0.0.1-ab/node0",
    "incarnation": "i1",
    "draining": False,
    "silent_s": 0.1,
    "cpus": "0-15",
    "memory_policy": "first-touch",
    "local_pages": 0.98,
    "busy_seconds": 1.0,
    "batches": 100,
    "failed_batches": 0,
    "waiting": 1,
    "pid": 77,
    "strays": [],
    "repository_models": ["digits"],
}


def text(status: FleetStatus, now: float, rates: Rates) -> str:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(render(status, now, rates))
    return shown.get()


def status(*workers: dict[str, Any], **changes: Any) -> FleetStatus:
    values = {
        "name": "packhorse",
        "state": "RUNNING",
        "message": "",
        "wanted": 2,
        "workers": workers,
        "gateways": (),
        "missing": (),
        "problems": (),
    }
    return FleetStatus(**(values | changes))


def test_rates_come_from_two_looks() -> None:
    rates = Rates()
    assert " 0% " in text(status(WORKER), 10.0, rates)
    later = text(status(WORKER | {"busy_seconds": 2.0, "batches": 600}), 12.0, rates)
    assert " 50% " in later
    assert " 250 " in later
    # A successor's counters start anew; that is no negative rate.
    assert "-" not in text(status(WORKER | {"batches": 0}), 13.0, rates).split("first-touch")[1]


def test_what_is_wrong_stands_out() -> None:
    lines = text(
        status(
            WORKER | {"strays": ["grpc", "poll"], "draining": True},
            WORKER | {"incarnation": "i2", "silent_s": 3.2},
            missing=(Replica("Worker", "r", "STARTING", "10.0.0.2-cd", None),),
            problems=("no Ray dashboard at http://127.0.0.1:1",),
        ),
        0.0,
        Rates(),
    )
    assert "threads outside its slot: grpc, poll" in lines
    assert "draining" in lines
    assert "silent 3 s" in lines
    assert "1 of 2 workers" in lines
    assert "10.0.0.2-cd/?" in lines
    assert "starting" in lines
    assert "no Ray dashboard" in lines


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_in_a_narrow_terminal_what_matters_most_is_whole(width: int) -> None:
    gateway = {"gateway": "host/1", "url": "http://192.0.2.200:8000", "ready": True}
    worker = WORKER | {"worker": "192.0.2.200-ee9c03/node0"}
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render(status(worker, gateways=(gateway,)), 0.0, Rates(), width))
    lines = capture.get().splitlines()
    assert len(lines) == 5, "no row is wrapped"
    assert max(map(len, lines)) <= width
    assert lines[2].split()[:2] == ["192.0.2.200-ee9c03/node0", "serving"]
    assert "http://192.0.2.200:8000" in lines[4]
    assert ("first-touch" in lines[2]) == (width == 200)


def test_gateways_are_shown() -> None:
    gateway = {
        "gateway": "host/1",
        "url": "http://host:8000",
        "ready": True,
        "requests": 10,
        "failed": 2,
        "waiting": 3,
        "workers": [{"state": "ready"}, {"state": "away"}],
    }
    lines = text(status(WORKER, gateways=(gateway,)), 0.0, Rates())
    assert "http://host:8000" in lines
    assert lines.splitlines()[-1].split()[-1] == "1"


def test_targets(tmp_path: Path) -> None:
    fleet = described(MODEL, "2")
    assert fleet.application.args.slots == 2
    assert described(MODEL, "cache", isa="avx2").application.args.isa == "avx2"
    assert described(MODEL, "cache", refine=True).application.args.refine
    from_file = described(ROOT / "configs/fleet.yaml", None, listen="0.0.0.0")
    assert (from_file.application.args.listen, from_file.workers) == ("0.0.0.0", 2)
    for wrong in ("rack", "0", "-1"):
        with pytest.raises(UsageError, match="give a number of slots"):
            described(MODEL, wrong)
    with pytest.raises(UsageError, match="no such file"):
        described(tmp_path / "missing")
    with pytest.raises(FleetError, match="No such file"):
        described(tmp_path / "missing.yaml")


def test_a_gateway_joins_with_the_fleets_secret() -> None:
    record = FleetRecord("f", "http://x:1", "127.0.0.1:8470", "/models", secret_file="/secret")
    command = gateway_command(record, "0.0.0.0", 8000, [])
    assert command[3:6] == ["serve", "/models", "--directory"]
    assert command[-2:] == ["--fleet-secret-file", "/secret"]


def test_fleets_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(FleetError, match="Known on this machine: none; start one"):
        recall()
    records = [
        FleetRecord(name, "http://127.0.0.1:1", "127.0.0.1:2", "/models") for name in ("a", "b")
    ]
    records[0].save()
    assert recall() == records[0]
    records[1].save()
    assert recall("b") == records[1]
    with pytest.raises(FleetError, match="which fleet"):
        recall()
    with pytest.raises(FleetError, match="no fleet 'c' was started here; known: a, b"):
        recall("c")
    (tmp_path / "packhorse/a.fleet").write_text("{")
    with pytest.raises(FleetError, match="remove it"):
        recall("a")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fleet", "status"], 1, "start one with: packhorse fleet up"),
        (["fleet", "up", "missing.onnx"], 2, "no such file or folder"),
        (["fleet", "up", str(MODEL), "--slots", "many"], 2, "give a number of slots"),
        (["fleet", "up", str(MODEL), "--slots", "100000"], 1, "slots do not fit"),
        (["fleet", "check", "configs/fleet.yaml"], 0, "2 workers, slots by 2"),
        (["serve", str(MODEL), "--fleet", "--directory", "x:1"], 2, "not both"),
    ],
)
def test_commands(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    shown = capsys.readouterr()
    assert end.value.code == code
    assert message in " ".join((shown.out + shown.err).split())
