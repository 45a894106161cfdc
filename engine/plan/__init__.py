"""From the graph to a program: physical tensors, lowering, packing, memory, binding to a shape."""
