"""Pickles of plain arrays."""
