"""A world to try and to test in: hospitals, EHRs, faults."""
