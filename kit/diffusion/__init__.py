"""Diffusion: schedules of noise, what a network learns to predict, and samplers."""
