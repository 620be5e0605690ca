"""How fast and how much: rate windows, holds, backoff."""
