"""Simulated data sources with faults on demand: the peers of the tests and of the demo."""
