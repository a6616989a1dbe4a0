"""Forecasts: a checkpoint rolled out from the states of a store, written as it goes."""
