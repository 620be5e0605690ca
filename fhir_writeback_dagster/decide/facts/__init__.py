"""What this clinical fact is, which content of it is newer, and what a correction leaves behind."""
