"""What every room reads and writes with: errors, whole files, locks, hashes, retries, progress, secrets."""
