"""What of a model may be wrong: parameters unlike what is usual for their role, each with the code for it."""
