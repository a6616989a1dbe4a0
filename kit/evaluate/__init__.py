"""Scorecards from a checkpoint and a store."""
