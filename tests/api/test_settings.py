from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import Settings, SettingsError, list_settings, read_settings


def test_every_setting_has_a_variable_and_a_description():
    listed = list_settings()
    assert [info.name for info in listed] == list(Settings.model_fields)
    for info in listed:
        assert info.variable == f"PACKHORSE_{info.name.upper()}"
        assert info.description.endswith("."), info.name
        assert info.kind
    kinds = {info.name: info.kind for info in listed}
    assert kinds["port"] == "int"
    assert kinds["threads"] == "int"
    assert kinds["repository"] == "path"
    assert kinds["log_format"] == "text | json"
    assert kinds["request_timeout_s"] == "float"
    defaults = {info.name: info.default for info in listed}
    for name, field in Settings.model_fields.items():
        assert defaults[name] == ("" if field.default is None else str(field.default)), name
    assert defaults["log_format"] == "text"
    assert defaults["threads"] == ""


def test_what_is_passed_wins_over_the_environment_over_the_default():
    environment = {
        "PACKHORSE_PORT": "9000",
        "PACKHORSE_HOST": "0.0.0.0",
        "PACKHORSE_METRICS": "false",
        "PACKHORSE_REPOSITORY": "/m",
        "PACKHORSE_THREADS": "",
        "OTHER": "x",
    }
    settings = read_settings({"port": 7000, "host": None}, environment)
    assert (settings.port, settings.host, settings.metrics) == (7000, "0.0.0.0", False)
    assert settings.repository == Path("/m")
    assert settings.threads is None
    assert settings.max_batch_size == 32


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("PACKHORSE_MAX_QUEUE", "7")
    assert read_settings().max_queue == 7


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PACKHORSE_PORT": "99999"}, r"port \(PACKHORSE_PORT\) = '99999'"),
        ({"PACKHORSE_PORT": "many"}, "PACKHORSE_PORT"),
        ({"PACKHORSE_MAX_BATCH_SIZE": "0"}, "PACKHORSE_MAX_BATCH_SIZE"),
        ({"PACKHORSE_LOG_FORMAT": "xml"}, "'text' or 'json'"),
        ({"PACKHORSE_REQUEST_TIMEOUT_S": "inf"}, "PACKHORSE_REQUEST_TIMEOUT_S"),
        ({"PACKHORSE_MANAGEMENT": "token"}, "PACKHORSE_MANAGEMENT_TOKEN"),
    ],
)
def test_unusable_values_are_named(environment, words):
    with pytest.raises(SettingsError, match=words):
        read_settings({}, environment)


def test_unknown_names_are_refused():
    with pytest.raises(SettingsError, match="prot"):
        read_settings({"prot": 1}, {})
