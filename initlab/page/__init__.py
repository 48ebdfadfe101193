"""Pages in one file, with all that they need inside."""
