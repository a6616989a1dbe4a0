"""Readers of foreign data, one module for each kind of source."""
