"""from_torch: modules of PyTorch, exported in memory."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from support.networks import assert_right

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

# Of PyTorch's own result, which is in float32.
CLOSE = 1e-5


class Network(torch.nn.Module):
    """A stem, an inverted residual with squeeze-and-excitation, a decoder, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 2, 2, groups=8), nn.BatchNorm2d(8))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.mixed = nn.Sequential(nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1))
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.deep(x)
        x = x + self.mixed(y * self.gate(y))
        maps = torch.nn.functional.interpolate(self.up(x), scale_factor=1.5, mode="bilinear")
        return torch.nn.functional.softmax(self.head(x.mean((2, 3))), -1), maps


# The exporter warns of things of its own.
@pytest.mark.filterwarnings("ignore")
def test_a_module(device):
    torch.manual_seed(3)
    module = Network()
    for norm in (each for each in module.modules() if isinstance(each, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -1, 1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(2, 3, 18, 22)
    graph = pwconv.from_torch(module, x, device=device)
    assert module.training
    about = assert_right(graph, {"x": x.numpy()})
    with torch.no_grad():
        expected = module.eval()(x)
    for found, wanted in zip(about.values(), expected, strict=True):
        assert np.abs(found - wanted.numpy()).max() <= CLOSE * wanted.abs().max().item()


@pytest.mark.filterwarnings("ignore")
def test_parts_stay_frozen(device):
    """Each part is in training, or not, as it was."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).train()
    module[1].eval()
    pwconv.from_torch(module, torch.zeros(1, 3, 5, 7), device=device)
    assert [each.training for each in module.modules()] == [True, True, False]


@pytest.mark.filterwarnings("ignore")
def test_what_the_exporter_leaves_out(device):
    module = torch.nn.AvgPool2d(3, divisor_override=5)
    with pytest.raises(pwconv.UnsupportedError, match="avg_pool2d has divisor_override=5"):
        pwconv.from_torch(module, torch.zeros(1, 3, 5, 7), device=device)


@pytest.mark.filterwarnings("ignore")
def test_circular_padding_that_cuts_off(device):
    class Pad(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.pad(x, (-1, 2, 2, -3), mode="circular")

    x = torch.randn(2, 3, 5, 7)
    (found,) = pwconv.from_torch(Pad(), x, device=device).run(x=x.numpy()).values()
    np.testing.assert_array_equal(found, Pad()(x).numpy())


@pytest.mark.filterwarnings("ignore")
def test_a_module_in_bfloat16(device):
    module = torch.nn.Conv2d(3, 4, 1).bfloat16()
    x = torch.randn(2, 3, 5, 7)
    graph = pwconv.from_torch(module, x.bfloat16(), device=device)
    (found,) = graph.run(input=x.numpy()).values()
    np.testing.assert_allclose(found, module.float()(x).detach().numpy(), rtol=0, atol=1e-5)


def test_inputs_that_are_no_tensors():
    with pytest.raises(TypeError, match=r"example_inputs is list; it must be a torch.Tensor"):
        pwconv.from_torch(torch.nn.ReLU(), [torch.zeros(1)])


def test_not_a_module():
    with pytest.raises(TypeError, match=r"module is int; it must be a torch.nn.Module"):
        pwconv.from_torch(3, None)


class Scaled(torch.nn.Module):
    """A convolution, times what is given by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 4, 1)

    def forward(self, x, *, scale):
        return self.mix(x) * scale


@pytest.mark.filterwarnings("ignore")
def test_keywords_and_axes_that_change(device):
    torch.manual_seed(5)
    module, scale = Scaled(), torch.rand(1, 4, 1, 1)
    axes = {"x": {0: "n", 2: "h", 3: "w"}, "scale": {}}
    graph = pwconv.from_torch(
        module,
        torch.randn(2, 3, 5, 7),
        kwargs={"scale": scale},
        dynamic_shapes=axes,
        device=device,
    )
    for shape in ((2, 3, 5, 7), (1, 3, 11, 4)):
        x = torch.randn(shape)
        graph.resize(x=shape)
        (found,) = graph.run(x=x.numpy(), scale=scale.numpy()).values()
        with torch.no_grad():
            expected = module(x, scale=scale).numpy()
        assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()
