"""What the machine can do at most: arithmetic peaks and read bandwidths, measured."""

from benchmarks.roofline.measurement import QUICK, Effort, Meter

__all__ = ["QUICK", "Effort", "Meter"]
