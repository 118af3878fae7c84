"""Experiments on models trained here: what the paper leaves open, with controls, seeds and rules written beforehand.

One module an experiment says what it measures, what it makes of that, and what is drawn; it needs no model. How it is
measured stands in the module of the same name in `measure`.
"""
