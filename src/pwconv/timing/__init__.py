"""Timing of kernels: stopwatch, clock check, ceilings."""
