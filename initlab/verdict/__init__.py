"""Verdict: what becomes of a trial, judged from its curves or foretold from its signals."""
