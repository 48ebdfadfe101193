"""Store: the output folder, written crash-safe and read back as frames."""
