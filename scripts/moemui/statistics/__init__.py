"""Intervals and tests that several analyses share and no library has in this form."""
