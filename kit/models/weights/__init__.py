"""Weights: their formats, their places, their way into a model."""
