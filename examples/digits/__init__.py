"""A small convolutional classifier of handwritten digits, trained here and served by the demo."""
