"""Serve the digit classifier and send it a digit that it was not trained on.

    python -m examples.digits.demo [--keep]

Starts `packhorse serve` as a process of its own, waits until it is ready, prints one request as it
goes over the wire with its answer, then classifies all images beside this file.
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
MODEL = FOLDER / "digits.onnx"
START_SECONDS = 120.0


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_server(port: int) -> subprocess.Popen[bytes]:
    """`packhorse serve` on `port`, ready to answer; exits the demo where the server does."""
    shown = MODEL.relative_to(Path.cwd()) if MODEL.is_relative_to(Path.cwd()) else MODEL
    print(f"$ packhorse serve {shown} --port {port}", flush=True)
    command = [sys.executable, "-m", "api.cli.main", "serve", str(MODEL), "--port", str(port)]
    server = subprocess.Popen(command)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode}; see above")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return server
        except OSError:
            pass
        time.sleep(0.05)
    server.terminate()
    raise SystemExit(f"the server was not ready after {START_SECONDS:.0f} s")


def infer(connection: http.client.HTTPConnection, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request of the Open Inference Protocol."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v2/models/digits/infer", json.dumps(body), headers)
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}: {answer}")
    return answer


def request_body(pixels: list[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Request for 8x8 images of 0..255; three decimals keep more than eight bits hold."""
    batch = np.round(np.stack(pixels)[:, None] / 255, 3)
    data = batch.ravel().tolist()
    tensor = {"name": "image", "shape": list(batch.shape), "datatype": "FP32", "data": data}
    return {"inputs": [tensor]}


def drawing(pixels: np.ndarray[Any, Any]) -> str:
    """An image as text, two characters per pixel."""
    shades = " .:-=+*#%@"
    return "\n".join(
        "  " + "".join(shades[value * 9 // 255] * 2 for value in row) for row in pixels.tolist()
    )


def show_one(connection: http.client.HTTPConnection, port: int) -> None:
    """Prints one request and its answer."""
    path = FOLDER / "images" / "7-a.png"
    pixels = np.asarray(Image.open(path))
    body = request_body([pixels])
    print(f"\nA digit that was not in the training data ({path.name}):\n\n{drawing(pixels)}\n")
    print(f"POST http://127.0.0.1:{port}/v2/models/digits/infer\n{json.dumps(body)}\n")
    answer = infer(connection, body)
    probabilities = np.array(answer["outputs"][0]["data"])
    print(f"{json.dumps(answer)}\n")
    print(f"It is a {probabilities.argmax()}, with probability {probabilities.max():.3f}.")


def classify_all(connection: http.client.HTTPConnection) -> None:
    """Sends all images in one request and prints how many were classified right."""
    files = sorted((FOLDER / "images").glob("*.png"))
    body = request_body([np.asarray(Image.open(file)) for file in files])
    begin = time.perf_counter()
    answer = infer(connection, body)
    elapsed = time.perf_counter() - begin
    rows = np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
    labels = [int(file.name[0]) for file in files]
    right = int((rows.argmax(1) == labels).sum())
    print(f"All {len(files)} images in one request: {right} right, {elapsed * 1e3:.1f} ms.")


def main() -> None:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="keep serving until Ctrl-C")
    parser.add_argument("--port", type=int, default=0, help="TCP port; default: a free one")
    arguments = parser.parse_args()
    begin = time.monotonic()
    port = arguments.port or free_port()
    server = start_server(port)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        show_one(connection, port)
        print(f"Answered {time.monotonic() - begin:.1f} s after the start.")
        classify_all(connection)
        if arguments.keep:
            print("Serving until Ctrl-C.", flush=True)
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait(timeout=30)


if __name__ == "__main__":
    main()
