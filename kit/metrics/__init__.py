"""Scores and baselines."""
