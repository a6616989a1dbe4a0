"""Files that the kit ships: the sample and the tiny weights."""
