"""Tuning: race the variants of a layer, keep the verdicts on disk, pick by them."""
