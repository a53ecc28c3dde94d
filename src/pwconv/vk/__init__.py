"""Vulkan objects. Tensors, layers and graphs are unknown here."""
