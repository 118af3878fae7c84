"""From stored scores to key neurons: settings, the rules that apply them, sparse sets and their files."""
