"""Diversity of data at three levels: neurons, experts and the text itself."""
