"""Feedback: what a model or the environment says of a trajectory."""
