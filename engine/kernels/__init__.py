"""Generators of kernels, one file per family."""
