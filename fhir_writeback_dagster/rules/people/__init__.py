"""Who is who: names, dates of birth, addresses, and how far two tellings of them agree."""
