"""From responses to neuron contributions: scored, checked, ranked and stored. The only expensive step."""
