"""Random infer bodies: always an answer, never a server error, never a held byte."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.protocol.datatypes import DTYPES

MODELS = ["identity", "flat", "scalar", "text", "sum_and_difference", "lookup", "identity_BOOL"]

sizes = st.one_of(st.integers(0, 5), st.sampled_from([-1, 2**31, 2**62, 2**64, 2**70]))
scalars = st.one_of(
    st.integers(-3, 300), st.floats(), st.booleans(), st.none(), st.text(max_size=5)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner)
)
parameters = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"binary_data_size": sizes | anything, "shared_memory_region": anything}
    ),
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "a", "b", "index", "", "y"]) | anything,
        "shape": st.lists(sizes, max_size=4) | anything,
        "datatype": st.sampled_from([*DTYPES, "FP8", "fp32"]) | anything,
        "data": st.lists(scalars, max_size=8) | anything,
        "parameters": parameters | anything,
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=4) | anything,
        "inputs": st.lists(tensors, max_size=3) | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from("xy")}), max_size=2)
        | anything,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_output": anything, "priority": anything, "timeout": sizes}
        )
        | anything,
    },
)
headers = st.one_of(
    st.none(),
    st.just("exact"),
    st.integers(-5, 400).map(str),
    st.sampled_from(["0", "x", "1e2", "184467440737095516160"]),
)
encodings = st.sampled_from([None, None, None, "gzip", "deflate", "identity", "zstd"])


def _answered(response: Any) -> None:
    assert response.status_code in (200, 400, 404, 413, 501), response.text
    if response.status_code != 200:
        content = response.json()
        assert list(content) == ["error"]
        assert content["error"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    model=st.sampled_from(MODELS),
    request=requests,
    tail=st.binary(max_size=40),
    header=headers,
    encoding=encodings,
)
def test_structured_bodies(shared, model, request, tail, header, encoding):
    body = json.dumps(request).encode()
    sent = {} if encoding is None else {"Content-Encoding": encoding}
    if header is not None:
        length = str(len(body)) if header == "exact" else header
        sent["Inference-Header-Content-Length"] = length
    _answered(shared.http.post(f"/v2/models/{model}/infer", content=body + tail, headers=sent))
    assert shared.server.gateway.budget.used == 0


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    model=st.sampled_from(MODELS),
    shape=st.lists(st.integers(0, 4), max_size=3),
    datatype=st.sampled_from(sorted(DTYPES)),
    size=st.integers(0, 80),
    claimed=st.integers(-2, 2),
)
def test_binary_sizes_against_shapes(shared, model, shape, datatype, size, claimed):
    entry = {
        "name": "index" if model == "lookup" else "x",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": size + claimed},
    }
    head = json.dumps({"inputs": [entry]}).encode()
    sent = {"Inference-Header-Content-Length": str(len(head))}
    response = shared.http.post(
        f"/v2/models/{model}/infer", content=head + bytes(size), headers=sent
    )
    _answered(response)
    if claimed != 0:
        assert response.status_code == 400


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=st.sampled_from(MODELS), body=st.binary(max_size=60), header=headers)
def test_arbitrary_bytes(shared, model, body, header):
    sent = {} if header in (None, "exact") else {"Inference-Header-Content-Length": header}
    _answered(shared.http.post(f"/v2/models/{model}/infer", content=body, headers=sent))
    assert shared.http.get("/v2/health/live").status_code == 200
