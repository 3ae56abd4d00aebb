"""Solution evolution: how trajectories are made."""
