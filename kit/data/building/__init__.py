"""Building a store at scale: block by block, resumable, by several processes at once."""
