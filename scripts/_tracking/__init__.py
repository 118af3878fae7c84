"""From run records to MLflow, where people look at them."""
