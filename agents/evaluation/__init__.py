"""Evaluation: how good a model is, with an interval."""
