"""Variants picked by measurement: the race, what it found, kept on disk, and who asks for it."""
