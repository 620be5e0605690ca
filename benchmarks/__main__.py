"""``make bench``."""

from benchmarks.layers import main

main()
