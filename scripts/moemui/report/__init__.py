"""From tables to what people see: figures, findings in words, one page."""
