"""Packhorse's inference engine: one process, one socket; reads an ONNX model, compiles it, runs it."""
