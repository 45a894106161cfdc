"""Who may import whom: api -> cluster -> engine; what the engine and the default may not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "engine": {"cluster", "api", "ray", "fastapi", "uvicorn", "onnxruntime", "openvino", "zmq"},
    "cluster": {"api", "fastapi", "uvicorn", "onnxruntime", "openvino"},
    "api": {"ray", "onnxruntime", "openvino"},
}
"""What no file of a part may import. Peers are installed to be compared with, never to serve."""

PEER_RUNNERS = {"api/cli/peers.py"}
"""Files that run other engines for `packhorse bench --against`, and nothing else."""


def imported(source: str) -> set[str]:
    """Top-level names that a source file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports_are_seen() -> None:
    source = "import api.cli\ndef f():\n    from cluster.channel import x\nfrom . import y\n"
    assert imported(source) == {"api", "cluster"}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_layers(part: str) -> None:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := imported(path.read_text()) & FORBIDDEN[part])
        and path.relative_to(ROOT).as_posix() not in PEER_RUNNERS
    }
    assert wrong == {}


RAY_MODULES = {"cluster/fleet/application.py"}
"""The files that touch Ray; a test beside them pins the releases they are known to work on."""


def test_ray_is_touched_in_one_module() -> None:
    parts = ("api", "cluster", "engine")
    users = {
        path.relative_to(ROOT).as_posix()
        for part in parts
        for path in (ROOT / part).rglob("*.py")
        if "ray" in imported(path.read_text())
    }
    assert users == RAY_MODULES


def python(code: str) -> str:
    """Output of a fresh interpreter that runs `code` in the project's folder."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_engine_loads_neither_ray_nor_a_server_nor_a_peer() -> None:
    loaded = python("import sys, engine; print(*sorted({m.split('.')[0] for m in sys.modules}))")
    assert "engine" in loaded.split()
    assert not set(loaded.split()) & FORBIDDEN["engine"]


BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "zmq", "onnxruntime", "openvino", "tritonclient"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
"""An interpreter that has only what the default install has."""


def test_engine_runs_without_the_extras() -> None:
    answer = python(
        BLOCKED + "import numpy, engine\n"
        "session = engine.load('examples/digits/digits.onnx')\n"
        "out = session.run({'image': numpy.zeros((2, 1, 8, 8), 'f4')})\n"
        "print(out['probabilities'].shape)"
    )
    assert answer.strip() == "(2, 10)"


def test_gateway_serves_without_the_extras() -> None:
    answer = python(
        BLOCKED + "import pathlib, urllib.request\n"
        "from examples.real_input.servers import served\n"
        "with served(pathlib.Path('examples/digits/digits.onnx')) as url:\n"
        '    body = b\'{"inputs": [{"name": "image", "shape": [1, 1, 8, 8], '
        "\"datatype\": \"FP32\", \"data\": [' + b','.join([b'0'] * 64) + b']}]}'\n"
        "    with urllib.request.urlopen(url + '/v2/models/model/infer', body) as response:\n"
        "        print(response.status)"
    )
    assert answer.strip() == "200"


def test_the_command_line_runs_without_the_extras() -> None:
    answer = python(
        BLOCKED + "from api.cli.main import main\n"
        "try:\n"
        "    main(['fleet', 'status'])\n"
        "except SystemExit as end:\n"
        "    print(end.code)"
    )
    assert answer.strip() == "1"
