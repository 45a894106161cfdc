"""Many sockets, many machines: repository of models, channel, workers."""
