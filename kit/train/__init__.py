"""Loss, optimiser and loop."""
