"""Damaged models: made again from their number, tried, judged, made smaller."""

from __future__ import annotations

from pathlib import Path
from random import Random

import onnx
import pytest

import engine
from benchmarks.fuzz import corpus, model_trial
from benchmarks.fuzz.limits import Peak
from benchmarks.fuzz.minimise import minimise
from benchmarks.fuzz.mutations import damage_bytes, damage_structure
from benchmarks.fuzz.outcome import FINDINGS, RAN, REFUSED, Outcome, counts
from tests.conftest import ROOT

MADE = [corpus.made_network(), corpus.made_control_flow(), corpus.made_quantised()]
MODELS = [*MADE, (ROOT / "examples/digits/digits.onnx").read_bytes()]


@pytest.mark.parametrize("model", MODELS, ids=["network", "control", "quantised", "digits"])
def test_what_is_damaged_works_before(model: bytes, tmp_path: Path) -> None:
    assert model_trial.attempt(model, 3, tmp_path).status == RAN


def test_inputs_are_made_again_from_their_number() -> None:
    first = [model_trial.damaged(MODELS, 0, number) for number in range(60)]
    assert first == [model_trial.damaged(MODELS, 0, number) for number in range(60)]
    assert len(set(first) - set(MODELS)) > 55
    assert first != [model_trial.damaged(MODELS, 1, number) for number in range(60)]


def test_damage_of_messages_leaves_a_message() -> None:
    changed = 0
    for number in range(100):
        damaged = damage_structure(MADE[number % 3], MODELS[3], Random(number))
        changed += onnx.ModelProto.FromString(damaged) != onnx.ModelProto.FromString(
            MADE[number % 3]
        )
    assert changed > 80


def test_bytes_are_damaged_in_every_way() -> None:
    lengths = [len(damage_bytes(b"\x55" * 1000, b"\xaa" * 1000, Random(n))) for n in range(200)]
    assert min(lengths) < 1000 < max(lengths)
    assert damage_bytes(b"", b"", Random(0)) == b""


def test_damaged_models_are_refused_or_run(tmp_path: Path) -> None:
    outcomes = [
        model_trial.attempt(model_trial.damaged(MODELS, 7, n), n, tmp_path) for n in range(40)
    ]
    found = counts(outcomes)
    assert not [outcome for outcome in outcomes if outcome.is_finding]
    assert found[REFUSED] > 0
    assert found[RAN] > 0


def test_only_errors_of_the_engine_are_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(engine, "load", failing)
    outcome = model_trial.attempt(MADE[0], 0, tmp_path)
    assert outcome.status in FINDINGS
    assert "KeyError at" in outcome.signature


def test_memory_is_seen_at_its_peak() -> None:
    peak = Peak()
    data = bytearray(64 << 20)
    data[::4096] = b"x" * len(data[::4096])
    del data
    assert 48 << 20 < peak.added() < 200 << 20


def test_a_finding_is_made_smaller() -> None:
    def fails(data: bytes) -> bool:
        try:
            model = onnx.ModelProto.FromString(data)
        except Exception:  # google.protobuf's DecodeError
            return False
        return any(node.op_type == "GRU" for node in model.graph.node)

    small = minimise(MADE[0], fails)
    assert fails(small)
    assert len(small) < 60
    assert minimise(b"\xffabcXdef", lambda data: b"X" in data) == b"X"


def test_signatures_tell_causes_apart() -> None:
    first = Outcome("unexpected error", "some text\nKeyError at a.py:1 f")
    second = Outcome("unexpected error", "other text\nKeyError at a.py:1 f")
    assert first.signature == second.signature
    assert Outcome("hung").signature != first.signature
