"""Tests of kit.tracking."""
