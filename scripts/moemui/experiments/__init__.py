"""Experiments on models trained here: what the paper leaves open, with controls, seeds and rules written beforehand.

One folder an experiment: `__init__` says what it asks, its settings and what it measures, `effects` what it makes of
that, `pictures` what is drawn; these need no model and no torch. `measure` measures it. What several experiments share
lies beside the folders.
"""
