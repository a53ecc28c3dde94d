"""Verification of a device: every variant that it can run, on small problems, in float64."""
