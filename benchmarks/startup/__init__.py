"""Time from process start to first answer."""
