"""Whether a device computes what it should: every variant that it can run, on small problems."""
