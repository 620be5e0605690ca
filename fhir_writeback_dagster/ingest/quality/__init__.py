"""Great Expectations suites on canonical records, and the page of what they found."""
