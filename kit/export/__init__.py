"""Checkpoints for others: merged, described, packed."""
