"""What a directory knows of the workers and gateways of its fleet."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

from cluster.discovery import WorkerEndpoint
from cluster.errors import FleetError
from cluster.fleet import protocol
from cluster.fleet.protocol import Record

logger = logging.getLogger("packhorse.fleet")


@dataclass(slots=True)
class RegisteredWorker:
    """A worker's entry; times are the caller's."""

    endpoint: WorkerEndpoint
    report: Record
    seen: float
    draining: bool = False


@dataclass(slots=True)
class RegisteredGateway:
    """A gateway's entry."""

    report: Record
    seen: float
    peer: bytes = b""


@dataclass(slots=True)
class Register:
    """What a directory knows; pure bookkeeping, without sockets or clocks."""

    workers: dict[str, RegisteredWorker] = field(default_factory=dict)
    gateways: dict[str, RegisteredGateway] = field(default_factory=dict)
    drained: dict[str, bool] = field(default_factory=dict)

    def announce(
        self, endpoint: WorkerEndpoint, report: Record, draining: bool, now: float
    ) -> tuple[bool, bool | None]:
        """Renew a worker's entry; returns whether the list has changed, and an order to drain.

        The worker itself keeps whether it is draining, so that a fresh directory learns of it.
        """
        order = self.drained.get(endpoint.incarnation)
        if order == draining:
            del self.drained[endpoint.incarnation]
            order = None
        before = self.workers.get(endpoint.incarnation)
        after = RegisteredWorker(endpoint, report, now, draining if order is None else order)
        self.workers[endpoint.incarnation] = after
        changed = before is None or before.endpoint != endpoint or before.draining != after.draining
        return changed, order

    def withdraw(self, incarnation: str) -> bool:
        """Forget a worker that leaves; returns whether it was known."""
        return self.workers.pop(incarnation, None) is not None

    def expire(self, now: float) -> bool:
        """Forget who has been silent for too long; returns whether that changes the list."""
        silent = [
            key for key, worker in self.workers.items() if now - worker.seen > protocol.EXPIRE_S
        ]
        for key in silent:
            logger.warning("worker '%s' has fallen silent", self.workers.pop(key).endpoint.worker)
        for name in [
            key for key, one in self.gateways.items() if now - one.seen > protocol.EXPIRE_S
        ]:
            del self.gateways[name]
        return bool(silent)

    def any_stands_in(self) -> bool:
        """Whether a worker stands in for one that was killed."""
        return any(worker.report.get("stands_in") is True for worker in self.workers.values())

    def drain(self, target: str, wanted: bool) -> list[str]:
        """Order the workers called `target`, or on the node of that name, to drain or to return.

        Returns their names; raises `FleetError` if there are none.
        """
        found = [
            worker
            for worker in self.workers.values()
            if target in (worker.endpoint.worker, worker.endpoint.incarnation)
            or worker.endpoint.worker.rpartition("/")[0] == target
        ]
        if not found:
            known = ", ".join(sorted(w.endpoint.worker for w in self.workers.values())) or "none"
            raise FleetError(f"no worker or node '{target}'; workers: {known}")
        for worker in found:
            self.drained[worker.endpoint.incarnation] = wanted
            worker.draining = wanted
        return sorted(worker.endpoint.worker for worker in found)

    def listed(self) -> list[Record]:
        """Endpoints that gateways should use."""
        return [
            json.loads(worker.endpoint.to_json())
            for _, worker in sorted(self.workers.items())
            if not worker.draining
        ]

    def status(self, now: float) -> Record:
        """Everything, for people."""
        return {
            "workers": [
                {
                    **worker.report,
                    "worker": worker.endpoint.worker,
                    "incarnation": worker.endpoint.incarnation,
                    "draining": worker.draining,
                    "silent_s": round(now - worker.seen, 1),
                }
                for worker in sorted(self.workers.values(), key=lambda w: w.endpoint.worker)
            ],
            "gateways": [
                {**gateway.report, "gateway": name}
                for name, gateway in sorted(self.gateways.items())
            ],
        }
