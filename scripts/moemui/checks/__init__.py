"""What results hang on: the choice of settings, and what masking key neurons costs."""
