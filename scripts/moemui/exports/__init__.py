"""What other tools take away: key neurons and expert sets as tidy tables, and as a mask of the model's neurons."""
