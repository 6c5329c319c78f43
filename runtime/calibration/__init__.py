"""Measures what a machine does, for the simulator's cost model: small direct benchmarks."""
