"""One module a kernel family, each pairing shaders with the host code that feeds them."""
