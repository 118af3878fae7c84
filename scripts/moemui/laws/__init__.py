"""What holds over models and neurons: performance against MUI, decay, flags, and the paper's printed figures."""
