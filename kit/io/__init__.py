"""Shared helpers: errors, atomic files, locks, hashes, retries, progress, secrets, bounded documents."""
