"""Analysis: conclusions over trials."""
