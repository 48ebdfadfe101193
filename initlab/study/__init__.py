"""Study: what a study file says, read, checked and resolved."""
