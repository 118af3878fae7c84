"""MUI: its value, its noise, its differences between tasks, checkpoints and models, and its course in training."""
