"""GRIB files."""
