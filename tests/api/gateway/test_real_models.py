"""Trained models end to end: the stock client, the gateway, batching, the engine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import numpy_helper

from tests.api.gateway.conftest import RunningServer


@pytest.fixture(scope="module")
def trained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    repository = tmp_path_factory.mktemp("trained")
    for name, path in {
        "mnist": "mnist_8/model",
        "pnet": "mtcnn/pnet",
        "rnet": "mtcnn/rnet",
    }.items():
        shutil.copy(models / f"{path}.onnx", repository / f"{name}.onnx")
    server = RunningServer(repository, max_batch_size=64)
    server.wait_for("ready", seconds=180)
    yield server
    server.stop()


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max() + 1e-5


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), "FP32")
    return made.set_data_from_numpy(array)


def test_stored_outputs(trained: RunningServer, models: Path):
    with trained.client() as client:
        for folder in sorted((models / "mnist_8").glob("test_data_set_*")):
            given, wanted = (
                numpy_helper.to_array(onnx.TensorProto.FromString((folder / name).read_bytes()))
                for name in ("input_0.pb", "output_0.pb")
            )
            result = client.infer("mnist", [tensor("Input3", given)])
            close(result.as_numpy("Plus214_Output_0"), wanted)


@pytest.mark.parametrize("size", [(12, 12), (47, 31), (120, 90)])
def test_any_image_size(trained: RunningServer, models: Path, size: tuple[int, int]):
    image = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    reference = onnxruntime.InferenceSession(models / "mtcnn" / "pnet.onnx")
    names = [output.name for output in reference.get_outputs()]
    with trained.client() as client:
        result = client.infer("pnet", [tensor("input_1", image)])
    for name, wanted in zip(names, reference.run(None, {"input_1": image}), strict=True):
        close(result.as_numpy(name), wanted)


async def test_a_request_gets_the_same_bytes_alone_and_in_a_batch(trained: RunningServer):
    generator = np.random.default_rng(1)
    crops = [
        generator.uniform(-1, 1, (1 + index % 3, 24, 24, 3)).astype(np.float32)
        for index in range(12)
    ]
    address = trained.url.removeprefix("http://")
    async with triton_aio.InferenceServerClient(address) as client:
        alone = [await client.infer("rnet", [tensor("input_2", crop)]) for crop in crops]
        before = trained.statistics("rnet")
        trained.loader.hold()
        running = [
            asyncio.create_task(client.infer("rnet", [tensor("input_2", crop)])) for crop in crops
        ]
        while trained.server.gateway.budget.used < sum(crop.nbytes for crop in crops):
            await asyncio.sleep(0.01)
        trained.loader.release()
        together = await asyncio.gather(*running)
    after = trained.statistics("rnet")
    assert after["inference_count"] - before["inference_count"] == 24
    assert after["execution_count"] - before["execution_count"] <= 4
    for one, other in zip(alone, together, strict=True):
        for name in ("dense_2", "softmax_1"):
            assert one.as_numpy(name).tobytes() == other.as_numpy(name).tobytes()
