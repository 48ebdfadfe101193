"""Theory of the signal: mean field over any recorded model, with a band for finite width."""
