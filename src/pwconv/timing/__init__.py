"""Timing kernels: stopwatch, clocks held and checked, what is said of samples."""
