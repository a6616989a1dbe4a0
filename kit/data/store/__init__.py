"""The store: written block by block, opened for training."""
