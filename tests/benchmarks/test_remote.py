import os
import time
from functools import partial

import pytest

from benchmarks.remote import Remote, RemoteError


class Target:
    def __init__(self, base):
        if base is None:
            raise ValueError("no base")
        self.base = base

    def add(self, value):
        self.base += value
        return self.base

    def where(self):
        return os.getpid()

    def fail(self):
        raise KeyError("lost")

    def crash(self):
        os.abort()

    def hang(self):
        time.sleep(60)


def test_an_object_lives_on_between_calls_and_survives_its_errors():
    with Remote(partial(Target, 10)) as remote:
        assert remote.call("where") != os.getpid()
        assert remote.call("add", 5) == 15
        with pytest.raises(RemoteError, match="KeyError: 'lost'"):
            remote.call("fail")
        assert remote.call("add", 1) == 16
    assert not remote.alive


def test_a_factory_that_fails_fails_each_call():
    with Remote(partial(Target, None)) as remote:
        for _ in range(2):
            with pytest.raises(RemoteError, match="ValueError: no base"):
                remote.call("add", 1)


def test_a_crash_is_reported_with_its_signal():
    with Remote(partial(Target, 0)) as remote:
        with pytest.raises(RemoteError, match="process ended during 'crash': SIGABRT"):
            remote.call("crash")
        with pytest.raises(RemoteError, match="process ended during 'add'"):
            remote.call("add", 1)


def test_a_hang_is_ended():
    with Remote(partial(Target, 0), timeout=3.0) as remote:
        with pytest.raises(RemoteError, match="no answer to 'hang' within 3 s"):
            remote.call("hang")
        assert not remote.alive
