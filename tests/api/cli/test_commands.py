"""Every command on the shipped model, and how errors end it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api.settings import Settings
from tests.api.cli.conftest import ROOT, Invoke


def save_model(path: Path, *nodes: onnx.NodeProto, inputs: Any, outputs: Any) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def adder(tmp_path: Path) -> Path:
    """Two inputs with open dimensions, one of them an integer."""
    return save_model(
        tmp_path / "adder.onnx",
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "c"], ["sum"]),
        inputs=[("a", TensorProto.FLOAT, ["N", "L"]), ("b", TensorProto.INT64, ["N", "L"])],
        outputs=[("sum", TensorProto.FLOAT, ["N", "L"])],
    )


def test_run_classifies_an_image(invoke: Invoke, digits: Path, seven: Path) -> None:
    done = invoke("run", digits, "--input", seven)
    assert done.code == 0
    assert "probabilities float32[1, 10]" in done.out
    assert "7: 0.9" in done.out


def test_run_joins_images_and_prints_json(invoke: Invoke, digits: Path, seven: Path) -> None:
    done = invoke("run", digits, "-i", seven, "-i", seven.with_name("3-a.png"), "--json")
    rows = np.array(json.loads(done.out)["probabilities"])
    assert rows.shape == (2, 10)
    assert rows.argmax(1).tolist() == [7, 3]


def test_run_saves_outputs_and_reads_them_again(
    invoke: Invoke, adder: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3), "f4"))
    (tmp_path / "b.json").write_text("[[1, 2, 3], [4, 5, 6]]")
    saved = tmp_path / "out.npz"
    done = invoke(
        "run", adder, "-i", f"a={tmp_path / 'a.npy'}", "-i", f"b={tmp_path / 'b.json'}",
        "--save", saved,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert np.load(saved)["sum"].tolist() == [[2, 3, 4], [5, 6, 7]]


def test_explain(invoke: Invoke, digits: Path) -> None:
    done = invoke("explain", digits, "--graph")
    assert done.code == 0
    assert "Graph as read" in done.out
    assert "fold_batchnorm" in done.out
    assert "operations native" in done.out
    parsed = json.loads(invoke("explain", digits, "--json").out)
    assert parsed["nodes_before"] == 13
    assert all(operation["native"] for operation in parsed["operations"])


def test_explain_says_what_became_of_the_precision(invoke: Invoke, digits: Path) -> None:
    done = invoke("explain", digits, "--precision", "bf16", "--bf16-first", "1")
    assert "precision: bf16 weights in 1 of " in done.out
    parsed = json.loads(invoke("explain", digits, "--json", "--precision", "bf16").out)
    names = [o["node"] for o in parsed["operations"] if o["reason"] == "bf16 weights"]
    done = invoke("explain", digits, "--precision", "bf16", "--fp32-node", names[0])
    assert "left alone" in done.out
    assert f"{names[0]} stays in fp32" in done.out
    assert invoke("explain", digits, "--fp32-node", names[0]).code == 2
    done = invoke("explain", digits, "--precision", "bf16", "--fp32-node", "nobody")
    assert done.code == 1
    assert "no product 'nobody'" in done.err


def test_bench_alone_and_against_onnxruntime(invoke: Invoke, digits: Path) -> None:
    done = invoke(
        "bench", digits, "--against", "onnxruntime", "--rounds", 1, "--seconds", 0.01,
        "--threads", "1,2", "--shape", "image=3x1x8x8",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[0] for row in rows if row[0] in ("packhorse", "onnxruntime")] == [
        "packhorse",
        "onnxruntime",
    ] * 2
    assert "image [3, 1, 8, 8]; 1 thread" in done.out
    differences = [float(row[6]) for row in rows if row[0] == "onnxruntime"]
    assert all(difference < 1e-4 for difference in differences)


def test_check_is_well_here(invoke: Invoke) -> None:
    done = invoke("check")
    assert done.code == 0, done.out
    assert "classified as 7" in done.out
    assert "All is well" in done.out


def test_check_says_what_to_fix(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PACKHORSE_CACHE_DIR", str(tmp_path / "file"))
    done = invoke("check")
    assert done.code == 1
    assert "problem:" in done.out
    assert "PACKHORSE_CACHE_DIR" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "advice"),
    [
        (["run", "nowhere.onnx", "-i", "x.npy"], 1, "nowhere.onnx"),
        (["run", "README.md", "-i", "x.npy"], 1, "README.md"),
        (["run", "{digits}", "-i", "nowhere.png"], 1, "nowhere.png: no such file"),
        (["run", "{digits}", "-i", "pixels=x.png"], 2, "no input 'pixels'"),
        (["run", "{digits}", "-i", "README.md"], 2, "unknown kind of file"),
        (["run", "{digits}", "-i", "{seven}", "--scale", "x"], 2, "1/255"),
        (["run", "{digits}", "-i", "{seven}", "--mean", "1,2"], 2, "give 1 or 1"),
        (["run", "{digits}", "-i", "{seven}", "-o", "label"], 2, "no output 'label'"),
        (["run", "{digits}"], 2, "--input"),
        (["bench", "nowhere.onnx"], 2, "no such file"),
        (["bench", "{digits}", "--shape", "image=8"], 1, "image"),
        (["bench", "{digits}", "--shape", "8x8"], 2, "name=1x3x224x224"),
        (["bench", "{digits}", "--shape", "y=8x8"], 2, "no input 'y'"),
        (["bench", "{digits}", "--against", "caffe"], 2, "known are onnxruntime, openvino"),
        (["bench", "{digits}", "--threads", "many"], 2, "1,2"),
        (["serve", "nowhere.onnx"], 1, "nowhere.onnx: no such file"),
        (["serve", "docs", "--port", "0"], 1, "nothing to serve"),
        (["serve"], 2, "say what to serve"),
        (["serve", "{digits}", "--port", "99999"], 2, "PACKHORSE_PORT"),
        (["serve", "{digits}", "--management", "token"], 2, "PACKHORSE_MANAGEMENT_TOKEN"),
        (["fly"], 2, "fly"),
    ],
)
def test_errors_are_one_clear_line(
    arguments: list[str],
    code: int,
    advice: str,
    invoke: Invoke,
    digits: Path,
    seven: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PACKHORSE_REPOSITORY", raising=False)
    done = invoke(*(part.format(digits=digits, seven=seven) for part in arguments))
    assert done.code == code
    assert advice in done.err
    assert "Traceback" not in done.err + done.out


def test_bench_asks_for_open_dimensions(invoke: Invoke, adder: Path) -> None:
    done = invoke("bench", adder)
    assert done.code == 2
    assert "--shape a=1x64" in done.err


def test_peer_that_is_not_installed(
    invoke: Invoke, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = invoke("bench", digits, "--against", "openvino")
    assert done.code == 1
    assert "pip install openvino" in done.err


@pytest.mark.parametrize("command", [[], ["serve"], ["run"], ["check"], ["explain"], ["bench"]])
def test_help(invoke: Invoke, command: list[str]) -> None:
    done = invoke(*command, "--help")
    assert done.code == 0
    assert "Usage: packhorse" in done.out


def test_serve_has_every_setting(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = invoke("serve", "--help").out
    for name in Settings.model_fields:
        if name != "repository":
            assert f"--{name.replace('_', '-')} " in text, name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_serve_answers_its_own_example_and_drains(digits: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "api.cli.main", "serve", str(digits)]
    environment = os.environ | {"PACKHORSE_PORT": str(port)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    lines = []
    assert server.stderr is not None
    try:
        deadline = time.monotonic() + 120
        for line in server.stderr:
            lines.append(line)
            if "curl -s" in line or time.monotonic() > deadline:
                break
        assert f"at http://127.0.0.1:{port}" in "".join(lines)
        example = lines[-1].partition(" | curl")[0]
        body = subprocess.run(example, shell=True, check=True, capture_output=True).stdout
        url = f"http://127.0.0.1:{port}/v2/models/digits/infer"
        with urllib.request.urlopen(url, body, timeout=30) as response:
            answer = json.loads(response.read())
        assert np.array(answer["outputs"][0]["data"]).sum() == pytest.approx(1)
    finally:
        server.send_signal(signal.SIGINT)
        rest = server.stderr.read()
        server.stderr.close()
        code = server.wait(timeout=60)
    assert code == 0, rest
    assert "Traceback" not in rest


def test_explain_at_a_shape(invoke: Invoke, digits: Path) -> None:
    done = invoke("explain", digits, "--shape", "image=3x1x8x8")
    assert done.code == 0
    assert "predicted" in done.out
    assert "ms in all" in done.out
    calls = json.loads(invoke("explain", digits, "--shape", "image=3x1x8x8", "--json").out)
    assert {"node", "kernel", "predicted", "measured", "alternatives"} <= calls[0].keys()
    assert invoke("explain", digits, "--shape", "picture=3x1x8x8").code == 2


def test_profile(invoke: Invoke, digits: Path, tmp_path: Path) -> None:
    shape = ("--shape", "image=3x1x8x8", "--rounds", 1)
    done = invoke("profile", digits, *shape, "--trace", tmp_path / "trace.json")
    assert done.code == 0
    assert "GFLOP/s" in done.out
    assert "if none shared" in done.out
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    report = json.loads(invoke("profile", digits, *shape, "--json").out)
    assert len(report["operations"]) == len(events)
    assert report["limits"]["flops"] > 0
    missing = invoke("profile", digits, *shape, "--trace", tmp_path / "no" / "trace.json")
    assert missing.code == 1
    assert "cannot be written" in missing.err
