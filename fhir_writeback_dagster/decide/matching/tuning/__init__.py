"""Thresholds and weights of the matching: evaluated and learnt on rows whose patients are known."""
