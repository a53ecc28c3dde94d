"""Timing of kernels: stopwatch, clock check, samples, ceilings."""
