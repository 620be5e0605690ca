"""Rows to canonical records: dates, units, codes, groups, identities of rows."""
