"""Many flows: the starts, the plan, the run, and the folder that a long sweep is written to."""
