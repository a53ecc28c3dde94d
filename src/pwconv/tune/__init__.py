"""Tuning: measure the variants of a convolution, keep the winners on disk, choose by them."""
