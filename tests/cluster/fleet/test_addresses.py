"""What a worker tells others of where it listens."""

import pytest

pytest.importorskip("zmq", reason="needs packhorse[fleet]")

from cluster.worker import options
from cluster.worker.options import EndpointOptions


@pytest.mark.parametrize(
    ("bound", "advertise", "expected"),
    [
        ("tcp://[::ffff:127.0.0.1]:99", None, "tcp://127.0.0.1:99"),
        ("tcp://[::ffff:0.0.0.0]:99", None, "tcp://10.1.2.3:99"),
        ("tcp://0.0.0.0:99", None, "tcp://10.1.2.3:99"),
        ("tcp://[::]:99", None, "tcp://10.1.2.3:99"),
        ("tcp://[::1]:99", None, "tcp://[::1]:99"),
        ("tcp://[::ffff:0.0.0.0]:99", "worker-1", "tcp://worker-1:99"),
    ],
)
def test_an_address_that_others_can_use(
    bound: str, advertise: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ shows IPv4 addresses of sockets that also speak IPv6 as mapped ones."""
    monkeypatch.setattr(options, "own_address", lambda: "10.1.2.3")
    assert EndpointOptions("w", tcp="x", advertise=advertise).advertised(bound) == expected
