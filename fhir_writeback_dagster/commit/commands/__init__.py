"""The command line of commit."""
