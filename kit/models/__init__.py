"""The variants of Aurora, their training space and their weights."""
