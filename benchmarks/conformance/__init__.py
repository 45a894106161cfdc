"""The onnx package's backend suite as a measure of what the engine runs, and what natively."""
