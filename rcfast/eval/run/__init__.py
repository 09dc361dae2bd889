"""What is done in a run, in which order, and how it is kept: units of work, the loop over them, the store."""
