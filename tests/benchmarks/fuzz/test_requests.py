"""Damaged requests, and the server that must answer them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from benchmarks.fuzz import requests
from benchmarks.fuzz.outcome import RAN, REFUSED
from benchmarks.fuzz.request_trial import Target, fill
from benchmarks.fuzz.requests import Sent


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    fill(folder / "repository")
    target = Target(folder / "repository", folder / "cache")
    yield target
    target.close()


def test_requests_are_made_again_from_their_number() -> None:
    first = [requests.damaged(0, number) for number in range(100)]
    assert first == [requests.damaged(0, number) for number in range(100)]
    assert len({sent.content for sent in first}) > 95
    assert sum(sent.framed for sent in first) > 60


@pytest.mark.parametrize("model", requests.MODELS)
def test_what_is_damaged_is_answered_before(target: Target, model: str) -> None:
    for seed in range(6):
        assert target.answers(requests.valid_infer(model, Random(seed)))


def test_damaged_requests_are_answered(target: Target) -> None:
    outcomes = [target.attempt(requests.damaged(3, number)) for number in range(120)]
    assert not [outcome for outcome in outcomes if outcome.is_finding]
    assert {outcome.status for outcome in outcomes} == {RAN, REFUSED}


@pytest.mark.parametrize(
    ("answer", "framed", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n", True, RAN),
        (b"HTTP/1.1 400 Bad Request\r\n", True, REFUSED),
        (b"HTTP/1.1 503 Service Unavailable\r\n", True, REFUSED),
        (b"", False, REFUSED),
        (b"", True, "server error"),
        (b"HTTP/1.1 500 Internal Server Error\r\n", True, "server error"),
        (b"timeout", False, "hung"),
    ],
)
def test_answers_are_judged(answer: bytes, framed: bool, status: str) -> None:
    assert Target.judge(Sent(b"", framed), answer).status == status
