"""pwconv's version: the build reads it here, and so does everything that names it."""

__version__ = "0.1.0"
