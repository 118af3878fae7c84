"""How each experiment is measured on the models of one seed: one module an experiment, and what they share."""
