"""Records that several tests of the benchmarks use."""

from benchmarks.results import (
    Bandwidth,
    CaseResult,
    Latency,
    Limits,
    Loading,
    Peak,
    PeersReport,
    Provenance,
)


def provenance(*, quiet: bool = True) -> Provenance:
    return Provenance(
        date="2030-01-02T03:04:05+00:00",
        command="peers",
        cpu="Some CPU",
        features=["avx2", "fma"],
        cpus=2,
        caches=[],
        memory=1 << 34,
        kernel="6.1",
        commit=None,
        modified=False,
        versions={"python": "3.11"},
        load_average=(0.0, 0.1, 0.2),
        busy_share=0.0 if quiet else 0.5,
        quiet=quiet,
    )


def limits(scale: float = 1.0) -> Limits:
    rows = (("SSE2", "baseline", 40.0), ("AVX2", "avx2", 100.0), ("AVX-512", "avx512", 200.0))
    return Limits(
        cpus=2,
        peaks=[
            Peak(name=name, kind="fp32", level=level, core=peak * scale, all_cores=1.9 * peak)
            for name, level, peak in rows
        ]
        + [Peak(name="AVX-512 VNNI", kind="int8", level=None, core=800.0, all_cores=1600.0)],
        bandwidths=[Bandwidth(level="L1", working_set=1 << 14, core=300.0, all_cores=600.0)],
    )


def case(
    title: str, threads: int, *, batch: int = 1, failure: str | None = None, **seconds: float
) -> CaseResult:
    """A case whose latencies are keyword arguments in seconds; `failure` is Packhorse's."""
    return CaseResult(
        model=title.lower(),
        title=title,
        case=f"b{batch}",
        dims={"batch": batch},
        threads=threads,
        gflop=0.001,
        core_speed=200.0,
        latencies=[
            Latency(
                engine=engine,
                minimum=time,
                median=1.1 * time,
                calls=5,
                gflops=0.001 / time,
                max_error=0.0,
                tolerance_used=0.0,
                failure=failure if engine == "packhorse" else None,
            )
            for engine, time in seconds.items()
        ],
    )


def report() -> PeersReport:
    cases = [
        case("Small", 1, packhorse=1e-3, onnxruntime=2e-3, openvino=3e-3),
        case("Small", 2, packhorse=6e-4, onnxruntime=9e-4, openvino=1.5e-3),
        case("Large", 1, onnxruntime=2e-2, openvino=1e-2),
    ]
    loading = Loading(
        model="Small",
        engine="openvino",
        threads=1,
        seconds=0.1,
        resident=1 << 24,
        file_size=1 << 22,
    )
    return PeersReport(
        provenance=provenance(), limits=limits(), notes=[], cases=cases, loadings=[loading]
    )
