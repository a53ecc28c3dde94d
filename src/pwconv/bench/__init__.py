"""``pwconv bench``: how far graphs are from what the device can do, and what the host adds."""
