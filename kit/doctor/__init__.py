"""What is wrong with this machine, before a run finds out: facts, findings, remedies."""
