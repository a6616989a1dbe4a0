"""Climatologies: made of years of a store, and opened for scores."""
