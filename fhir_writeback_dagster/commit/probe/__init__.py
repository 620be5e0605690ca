"""What does this EHR really do? Experiments, traces, and drift from what was approved."""
