"""Writes files/NAME.onnx: networks of torchvision and timm, of which the weights are left out.

Needs torch 2.13, torchvision, timm and onnxscript, which the tests do not: they draw weights from a
seed, as the files say. ``python export.py [NAME …]`` in this folder's parent's environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from networks.images import draw  # noqa: E402
from networks.refill import empty  # noqa: E402

FILES = Path(__file__).parent / "files"
_SIZE = 64  # of the image by which weights are scaled


class UNet(nn.Module):
    """Two stages down, two up by transposed convolutions, each beside what came down."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second = self._pair(3, width), self._pair(width, 2 * width)
        self.deepest = self._pair(2 * width, 4 * width)
        self.up_second = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up_first = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.after_second = self._pair(4 * width, 2 * width)
        self.after_first = self._pair(2 * width, width)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, 2, 1)

    @staticmethod
    def _pair(before: int, after: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers += [nn.Conv2d(channels, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU())
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of two channels."""
        first = self.first(x)
        second = self.second(self.pool(first))
        deepest = self.deepest(self.pool(second))
        second = self.after_second(torch.cat([self.up_second(deepest), second], 1))
        return self.head(self.after_first(torch.cat([self.up_first(second), first], 1)))


class EdgeTAMEncoder(nn.Module):
    """EdgeTAM's image encoder: RepViT-M1's four stages, the FPN neck, and heads of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model("repvit_m1", features_only=True)
        self.laterals = nn.ModuleList(nn.Conv2d(c, 256, 1) for c in (48, 96, 192, 384))
        self.heads = nn.ModuleList([nn.Conv2d(256, 32, 1), nn.Conv2d(256, 64, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps of strides 4, 8 and 16."""
        stages = self.trunk(x)
        maps = [lateral(each) for lateral, each in zip(self.laterals, stages, strict=True)]
        maps[2] = maps[2] + interpolate(maps[3], scale_factor=2.0, mode="nearest")
        return self.heads[0](maps[0]), self.heads[1](maps[1]), maps[2]


class Segmenter(nn.Module):
    """torchvision's, which returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the classes' maps."""
        return self.inner(x)["out"]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
    "efficientnet_b0": torchvision.models.efficientnet_b0,
    "mobilenetv4_conv_small": lambda: timm.create_model("mobilenetv4_conv_small"),
    "resnet18": torchvision.models.resnet18,
    "regnet_y_400mf": torchvision.models.regnet_y_400mf,
    "lraspp_mobilenet_v3_large": Segmenter,
    "unet": UNet,
    "repvit_m1": lambda: timm.create_model("repvit_m1"),
    "edgetam_encoder": EdgeTAMEncoder,
}


def export(name: str) -> onnx.ModelProto:
    """Return a network of any batch, H and W, its weights left out."""
    module = NETWORKS[name]().eval()
    axes = {0: torch.export.Dim("batch"), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, 2 * _SIZE, 3 * _SIZE),),
        dynamo=True,
        dynamic_shapes=(axes,),
        input_names=["image"],
        optimize=False,  # which folds batch norms
        verbose=False,
    )
    # Renamed first: what is drawn depends on names.
    model = _short(program.model_proto)
    image = draw(_SIZE, _SIZE).transpose(2, 0, 1)[None].astype(np.float32)
    return empty(model, image)


def _short(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take away what only says where a node comes from; number the values between the edges."""
    graph = model.graph
    del graph.value_info[:]
    for each in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del each.metadata_props[:]
    edges = [each.name for each in (*graph.input, *graph.output)]
    short = {"": "", **{name: name for name in edges}}

    def number(name: str) -> str:
        return short.setdefault(name, f"v{len(short)}")

    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("name")
        node.input[:] = [number(name) for name in node.input]
        node.output[:] = [number(name) for name in node.output]
    kept = [each for each in graph.initializer if each.name in short]
    for each in kept:
        each.name = short[each.name]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


if __name__ == "__main__":
    FILES.mkdir(exist_ok=True)
    for each in sys.argv[1:] or NETWORKS:
        path = FILES / f"{each}.onnx"
        onnx.save(export(each), path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
