"""Errors that the cluster layer raises; errors of the engine pass through unchanged.

Every message names what was wrong, where (model, version, file, key) and what to do about it.
"""


class ClusterError(Exception):
    """Base of every error the cluster layer raises on purpose."""


class RepositoryError(ClusterError):
    """The model repository, or a `model.yaml` in it, is not laid out as it must be."""


class ModelNotFoundError(ClusterError):
    """No model or version of that name exists."""


class ModelUnavailableError(ClusterError):
    """The model exists but does not serve at the moment: loading, failed or unloaded."""


class LoadError(ClusterError):
    """A model could not be loaded or warmed; what served before still serves."""


class DeadlineError(ClusterError):
    """The deadline of a batch or request passed before it was answered."""


class ChannelError(ClusterError):
    """A worker could not take or finish a batch for a reason that is not the batch's own."""


class PoisonError(ClusterError):
    """Requests that were alone on a worker when it died; they are not tried again.

    `parts` are their positions in the batch; the other requests of the batch are innocent.
    """

    def __init__(self, message: str, parts: frozenset[int] = frozenset({0})) -> None:
        super().__init__(message)
        self.parts = parts


class PlacementError(ClusterError):
    """A worker cannot be put where it was asked to be: slots, leases, CPU affinity."""


class SlotTakenError(PlacementError):
    """Another worker of this machine holds a core of the slot; the message says which one."""


class FleetError(ClusterError):
    """A fleet cannot be described, started, reached or changed as asked."""
