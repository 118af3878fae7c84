"""From a file back to its sources, and whether all of it still is what was recorded."""
