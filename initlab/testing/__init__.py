"""Testing: the paper's testing procedure for trained nets."""
