"""`python -m benchmarks.roofline`: print what this machine can do at most."""

import typer

from benchmarks import options, tables
from benchmarks.provenance import collect
from benchmarks.results import RooflineReport
from benchmarks.roofline import QUICK, Effort, Meter


def main(quick: options.Quick = False, json_file: options.JsonFile = None) -> None:
    """Measure arithmetic peaks and read bandwidths of this machine."""
    out = tables.console()
    provenance = collect()
    tables.show_provenance(out, provenance)
    limits = Meter(QUICK if quick else Effort()).measure()
    tables.show_limits(out, limits)
    report = RooflineReport(provenance=provenance, limits=limits)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)
