"""Predictions of a checkpoint: roll-outs from the states of a store."""
