"""Lowering functions, one file per family of operators."""
