"""Figures, from arrays to PNG."""
