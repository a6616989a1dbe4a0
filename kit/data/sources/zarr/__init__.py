"""Zarr stores, in a folder or at an address."""
