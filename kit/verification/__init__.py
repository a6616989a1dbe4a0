"""Scorecards of a checkpoint."""
