"""``pwconv bench``: graphs against the device's measured ceilings, and the host's cost."""
