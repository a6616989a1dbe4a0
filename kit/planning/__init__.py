"""The planner: the memory and time of a step, from a trace of that step, without a GPU."""
