"""The data line: sources -> store -> pairs -> ``aurora.Batch``."""
