"""A PyTorch module runs on a Vulkan device; its result is compared with PyTorch's.

    python examples/torch_module.py

It needs ``pip install 'pwconv[torch]'``.
"""

from __future__ import annotations

from typing import Any

import torch

import pwconv


class Network(torch.nn.Module):  # type: ignore[misc]
    """A stem and a pointwise layer; inputs get their names from ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(16)
        self.mix = torch.nn.Conv2d(16, 32, 1)

    def forward(self, x: Any) -> Any:
        """Return [N, 32, H / 2, W / 2] of [N, 3, H, W]."""
        x = torch.nn.functional.hardswish(self.norm(self.stem(x)))
        return torch.nn.functional.gelu(self.mix(x))


def main() -> None:
    """Import the module, run it on both, print how far they are apart."""
    module, x = Network().eval(), torch.randn(1, 3, 64, 96)
    graph = pwconv.from_torch(module, x)
    (y,) = graph.run({"x": x.numpy()}).values()
    with torch.no_grad():
        difference = abs(module(x).numpy() - y).max()
    print(f"x {tuple(x.shape)} -> {y.shape}; at most {difference:.1e} from PyTorch's")


if __name__ == "__main__":
    main()
