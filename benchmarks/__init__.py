"""Measured comparisons, run by hand with `make bench`: never as tests, because machines differ."""
