"""How near models are to each other, weight by weight, before and after a merge."""
