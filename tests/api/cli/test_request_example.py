"""The request that `serve` prints: a shell must be able to run it."""

import json
import shlex
import subprocess

import numpy as np
import pytest

from api.cli.request_example import request_example
from cluster.description import ModelDescription, TensorDescription

KINDS = {"f4": "FP32", "i8": "INT64", "?": "BOOL", "O": "BYTES"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3), ("N", "L"), (), (1, 1000)])
def test_body_is_valid(kind: str, shape: tuple[int | str, ...]) -> None:
    tensor = TensorDescription("it's x", np.dtype(kind), shape)
    model = ModelDescription((tensor, tensor), (), True, "")
    example = request_example("http://host:1", "m", model)
    before, _, command = example.rpartition("curl ")
    words = shlex.split(command)
    assert words[:3] == ["-s", "http://host:1/v2/models/m/infer", "-d"]
    body = words[3]
    if body == "@-":
        program = before.removesuffix(" | ")
        body = subprocess.run(program, shell=True, check=True, capture_output=True).stdout.decode()
    for found in json.loads(body)["inputs"]:
        assert found["name"] == "it's x"
        assert found["datatype"] == KINDS[kind]
        assert len(found["data"]) == int(np.prod(found["shape"]))
        assert len(found["shape"]) == len(shape)
