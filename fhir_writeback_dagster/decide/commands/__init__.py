"""The command line of decide."""
