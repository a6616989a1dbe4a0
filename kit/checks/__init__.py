"""Checks on a store, and their report."""
