"""The main job: a run folder, from the first step or from a checkpoint, on the record."""
