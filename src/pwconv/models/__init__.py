"""Networks as graphs, built from numpy arrays."""

from pwconv.models.edgetam import edgetam_pointwise
from pwconv.models.repvit_m1 import repvit_m1_backbone

__all__ = ["edgetam_pointwise", "repvit_m1_backbone"]
