"""Vulkan objects. Nothing here knows what a tensor is."""
