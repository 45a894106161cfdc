"""What the machine can do at most: arithmetic peaks and read bandwidths, measured."""

from benchmarks.roofline.measurement import QUICK, Effort, measure

__all__ = ["QUICK", "Effort", "measure"]
