"""MUI of Mixture-of-Experts language models: contributions, key neurons, utilization, experts."""
