"""Published models on the inputs they were made for, compared with onnxruntime."""
