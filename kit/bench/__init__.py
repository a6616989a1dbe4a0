"""Benchmarks of memory, speed and exactness, against upstream's documented way."""
