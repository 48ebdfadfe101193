"""What He et al. (2015) published, as numbers to lay beside our own."""
