"""Results as data: what the JSON files hold, with units in the field descriptions."""

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all records: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Peak(Record):
    """Measured arithmetic peak of one instruction set."""

    name: str
    kind: Literal["fp32", "bf16", "int8"]
    level: str | None = Field(description="name of the engine's mask that still has this set")
    core: float = Field(description="1e9 operations per second on one core")
    all_cores: float = Field(description="1e9 operations per second on all usable cores at once")


class Bandwidth(Record):
    """Measured read bandwidth of one memory level."""

    level: str
    working_set: int = Field(description="bytes per core")
    core: float = Field(description="GB/s of one core")
    all_cores: float = Field(description="GB/s of all usable cores at once")


Rate = TypeVar("Rate", Peak, Bandwidth)


class Limits(Record):
    """What the machine can do at most."""

    cpus: int
    peaks: list[Peak]
    bandwidths: list[Bandwidth]

    def best(self, other: "Limits") -> "Limits":
        """The higher figure of two measurements of one machine, row by row."""
        peaks = [
            _higher(mine, theirs) for mine, theirs in zip(self.peaks, other.peaks, strict=True)
        ]
        pairs = zip(self.bandwidths, other.bandwidths, strict=True)
        bandwidths = [_higher(mine, theirs) for mine, theirs in pairs]
        return self.model_copy(update={"peaks": peaks, "bandwidths": bandwidths})


def _higher(mine: Rate, theirs: Rate) -> Rate:
    core, every = max(mine.core, theirs.core), max(mine.all_cores, theirs.all_cores)
    return mine.model_copy(update={"core": core, "all_cores": every})


class CacheSize(Record):
    """One cache level as the operating system reports it."""

    level: int
    size: int = Field(description="bytes")
    shared_by: int = Field(description="CPUs that share one such cache")


class Provenance(Record):
    """Where, when and with what a result was taken."""

    date: str
    command: str
    cpu: str
    features: list[str]
    cpus: int = Field(description="CPUs that the process may use")
    caches: list[CacheSize]
    memory: int = Field(description="bytes of physical memory")
    kernel: str
    commit: str | None
    modified: bool = Field(description="the work tree differed from the commit")
    versions: dict[str, str]
    load_average: tuple[float, float, float]
    busy_share: float = Field(description="CPU time used by others just before the run, 0 to 1")
    quiet: bool


class Visit(Record):
    """One block of calls with a probe of the fp32 peak of as many cores on either side."""

    seconds: float = Field(description="least of the block's calls")
    before: float = Field(description="peak just before, GFLOP/s")
    after: float = Field(description="peak just after, GFLOP/s")

    @property
    def speed(self) -> float:
        """GFLOP/s that the cores could do at least, as far as the probes tell."""
        return min(self.before, self.after)


class Latency(Record):
    """Times of one engine on one case, or why there are none."""

    engine: str
    minimum: float | None = Field(default=None, description="seconds")
    median: float | None = Field(default=None, description="seconds")
    calls: int = 0
    gflops: float | None = Field(default=None, description="model GFLOP/s at the minimum")
    visits: list[Visit] = Field(default_factory=list, description="blocks with probes around")
    peak_share: float | None = Field(
        default=None, description="median over visits at full speed: GFLOP/s over the peak, 0 to 1"
    )
    best_share: float | None = Field(default=None, description="the largest of these")
    max_error: float | None = Field(default=None, description="largest difference to the oracle")
    tolerance_used: float | None = Field(
        default=None, description="largest difference over what equality allows; equal up to 1"
    )
    failure: str | None = None


class CaseResult(Record):
    """One model at one shape and thread count."""

    model: str
    title: str
    case: str
    dims: dict[str, int]
    threads: int
    gflop: float = Field(description="1e9 operations of dot products, counted directly")
    core_speed: float = Field(
        description="fp32 GFLOP/s per core around the fastest block of the least lucky engine"
    )
    latencies: list[Latency]

    def share(self, engine: str) -> float | None:
        """An engine's share of the peak on this case."""
        return next((row.peak_share for row in self.latencies if row.engine == engine), None)

    def minimum(self, engine: str) -> float | None:
        """Best seconds of an engine on this case."""
        return next((row.minimum for row in self.latencies if row.engine == engine), None)


class Loading(Record):
    """What loading one model cost one engine."""

    model: str
    engine: str
    threads: int
    seconds: float
    resident: int = Field(description="bytes that the process grew by, after one small call")
    file_size: int = Field(description="bytes of the model file")


class PeersReport(Record):
    """Everything that one run of `python -m benchmarks.peers` found."""

    provenance: Provenance
    limits: Limits
    notes: list[str]
    cases: list[CaseResult]
    loadings: list[Loading]


class RooflineReport(Record):
    """Everything that one run of `python -m benchmarks.roofline` found."""

    provenance: Provenance
    limits: Limits


class StartupResult(Record):
    """Seconds from process start to first answer, one list per scenario."""

    model: str
    case: str
    scenario: str
    seconds: list[float]
    failure: str | None = None


class StartupReport(Record):
    """Everything that one run of `python -m benchmarks.startup` found."""

    provenance: Provenance
    results: list[StartupResult]


class VisitResult(Record):
    """One engine on one model's stream of random shapes."""

    model: str
    engine: str
    shapes: list[dict[str, int]]
    first: list[float] = Field(description="seconds of the first visit to each shape")
    later: list[list[float]] = Field(description="seconds of each later visit, per shape")
    resident_before: int = 0
    resident_after: int = 0
    failure: str | None = None


class ShapesReport(Record):
    """Everything that one run of `python -m benchmarks.shapes` found."""

    provenance: Provenance
    threads: int
    results: list[VisitResult]
