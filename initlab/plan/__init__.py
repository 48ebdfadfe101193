"""Plan: the trials of a study, what each takes, and which go together."""
