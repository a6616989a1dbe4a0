"""Settings in layers, looked up and explained."""
