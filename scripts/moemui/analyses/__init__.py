"""From stored scores to results: key neurons, and every analysis of them. No model is needed here but to mask one."""
