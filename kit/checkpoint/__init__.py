"""The checkpoint folder."""
