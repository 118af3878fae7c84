"""Experts: which are key, how tasks share them, what they follow, and whether shared ones are over-represented."""
