"""The protocol of one write, pure: states, transitions, error classes, what an answer proves."""
