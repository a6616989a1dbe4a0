"""The planner: what a step needs, from a trace of the very step, without a GPU."""
