"""The page of the experiments: what was planned, what was measured, what the rules decided, and figures of it."""
