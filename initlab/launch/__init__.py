"""Launch: the launcher's side, without torch."""
