"""The words of a verdict on an untrained net."""

VERDICTS = ("healthy", "nonfinite", "vanishing", "exploding", "uneven", "dead", "saturated")
