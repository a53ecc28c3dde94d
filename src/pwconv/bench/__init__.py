"""``pwconv bench``: how far each kernel is from what the device can do, and from its peers."""
