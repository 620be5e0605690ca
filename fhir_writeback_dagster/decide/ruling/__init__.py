"""The gates before a verdict: encounter, consent, policy, mode, target."""
