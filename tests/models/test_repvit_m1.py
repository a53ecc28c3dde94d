"""RepViT-M1's trunk: its numbers, its parameters, and timm's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import pwconv
from pwconv.models import repvit_m1_backbone
from pwconv.models.repvit_m1 import Trunk, parameter_shapes
from pwconv.reference import Approximation
from support import mirror as mirror_module
from support.accuracy import assert_within
from support.blockwise import Unnamed, check_parts
from support.mirror import Mirror

State = dict[str, np.ndarray]

_SMALL_BRANCHES = (".token_mixer.conv.bn", ".token_mixer.conv1.bn", "conv2.bn")


def random_state(rng: np.random.Generator, products: int | None = None) -> State:
    """Return random parameters, with so many weights to an output that are not zero.

    Branches beside a residual are small. Both keep the bounds small.
    """
    found = {}
    for name, shape in parameter_shapes().items():
        noise = rng.standard_normal(shape)
        if len(shape) == 4:
            rows = noise.reshape(len(noise), -1)
            if products is not None:
                order = rng.permuted(np.tile(np.arange(rows.shape[1]), (len(rows), 1)), axis=1)
                rows[order >= products] = 0
            rows /= np.sqrt((rows != 0).sum(1, keepdims=True))
        elif name.endswith(".running_var"):
            noise = np.exp(0.5 * noise)
        elif name.endswith(".bn.weight"):
            small = any(part in name for part in _SMALL_BRANCHES) and "stem" not in name
            noise = (1 + 0.2 * noise) * (0.03 if small else 1.0)
        else:
            noise *= 0.1
        found[name] = noise.astype(np.float32)
    return found


@pytest.fixture
def state(rng: np.random.Generator) -> State:
    return random_state(rng)


@pytest.mark.parametrize(
    "storage", ["texture3d", pytest.param("buffer", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float16", marks=pytest.mark.exhaustive)]
)
def test_numbers(device, rng, state, dtype, storage):
    """Each part within its bound; and the trunk gives what the parts do, bit by bit."""
    shape = (2, 3, 33, 18)
    mirror = Mirror(device, dtype, storage)
    trunk = Trunk(state, np.dtype(dtype))
    maps = trunk.feature_maps(Unnamed(mirror), mirror.input("x", shape))
    names = {pair: name for name, pair in mirror.outputs.items()}
    x = rng.standard_normal(shape).astype(dtype)
    parts = check_parts(mirror, x)
    graph = repvit_m1_backbone(state, device, size=shape[2:], batch=2, dtype=dtype, storage=storage)
    results = graph.run(x=x)
    assert list(results) == [f"stages.{stage}" for stage in range(4)]
    for pair, result in zip(maps, results.values(), strict=True):
        np.testing.assert_array_equal(result, parts[names[pair]])


@pytest.mark.exhaustive
def test_another_size_and_back(device, rng, state):
    graph = repvit_m1_backbone(state, device, size=32)
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float16)
    before = graph.run(x=x)
    graph.resize(x=(1, 3, 33, 50))
    assert [a.shape for a in graph.run(x=np.zeros((1, 3, 33, 50), np.float16)).values()] == [
        (1, 48, 9, 13),
        (1, 96, 5, 7),
        (1, 192, 3, 4),
        (1, 384, 2, 2),
    ]
    graph.resize(x=(1, 3, 32, 32))
    for name, array in graph.run(x=x).items():
        np.testing.assert_array_equal(array, before[name])


def with_rounded_weights(convolution: Callable[..., Approximation]) -> Callable[..., Approximation]:
    """Have a bound hold for weights and biases that differ from those given by ε relative.

    Σ|w|·ε·|x| is what an error of ε·|x| in the input becomes.
    """
    eps = 2.0**-23

    def wider(x: Approximation, weight, bias=None, *, residual=None, **settings) -> Approximation:
        values = bias.astype(np.float64)[:, None, None]
        added = Approximation(values, eps * np.abs(values))
        if residual is not None:
            added = residual.plus(added)
        inexact = Approximation(x.value, x.error + eps * x.most)
        return convolution(inexact, weight, residual=added, **settings)

    return wider


def test_the_same_as_timm(device, rng, monkeypatch):
    """All four maps against timm's in float64, by a bound carried through the whole trunk.

    It holds for both, each against the trunk in float64 with the folded weights that the device
    has: timm's differ from them by their rounding, half an ε.
    """
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    state = random_state(rng, products=2)
    model = timm.create_model("repvit_m1")
    theirs = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(a) for name, a in (theirs | state).items()})
    shape = (1, 3, 33, 50)
    x = rng.standard_normal(shape, dtype=np.float32)
    expected = []
    with torch.no_grad():
        y = model.double().eval().stem(torch.from_numpy(x).double())
        for stage in model.stages:
            y = stage(y)
            expected.append(y.numpy())

    graph = repvit_m1_backbone(theirs | state, device, size=shape[2:], dtype="float32")
    results = graph.run(x=x)

    mirror = Mirror(device, "float32", "auto")
    trunk = Trunk(state, np.dtype(np.float32))
    for i, pair in enumerate(trunk.feature_maps(Unnamed(mirror), mirror.input("x", shape))):
        mirror.outputs[f"stages.{i}"] = pair
    rounded = with_rounded_weights(mirror_module.convolution)
    monkeypatch.setattr(mirror_module, "convolution", rounded)
    bounds = mirror.expected({"x": x})
    for i, wanted in enumerate(expected):
        bound = bounds[f"stages.{i}"]
        assert bound.error.max() < 1e-3 * np.abs(bound.value).max()  # it could fail
        assert_within(bound.value, wanted, bound.error)
        assert_within(results[f"stages.{i}"], wanted, 2 * bound.error)


def test_the_parameters_of_timm():
    pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    theirs = {
        name: tuple(tensor.shape)
        for name, tensor in timm.create_model("repvit_m1").state_dict().items()
        if not name.startswith("head.") and not name.endswith(".num_batches_tracked")
    }
    assert theirs == parameter_shapes()


def test_missing_and_unknown_parameters(device, state):
    first, *others = [name for name in state if name.startswith("stages.2.blocks.3.")]
    del state[first]
    with pytest.raises(ValueError, match=f"state lacks '{first}'$"):
        repvit_m1_backbone(state, device)
    for name in others:
        del state[name]
    state["stages.2.blocks.3.token_mixer.weight"] = np.zeros(1, np.float32)
    with pytest.raises(
        ValueError,
        match=f"lacks '{first}', .* and 15 more; it has 'stages.2.blocks.3.token_mixer.weight'",
    ):
        repvit_m1_backbone(state, device)


@pytest.mark.parametrize(
    ("name", "array", "error", "message"),
    [
        (
            "stem.conv1.c.weight",
            np.zeros((24, 1, 3, 3), np.float32),
            ValueError,
            r"has shape \(24, 1, 3, 3\); it must be \(24, 3, 3, 3\)",
        ),
        ("stem.conv1.bn.bias", np.zeros(24), TypeError, "dtype float64"),
        ("stem.conv1.bn.bias", np.full(24, np.nan, np.float32), ValueError, "must be finite"),
        ("stem.conv1.bn.running_var", np.full(24, -1, np.float32), ValueError, "has -1; a varia"),
        ("stem.conv1.bn.weight", np.full(24, 3e7, np.float32), ValueError, "use dtype='float32'"),
    ],
)
def test_a_parameter_that_will_not_do(device, state, name, array, error, message):
    state[name] = array
    with pytest.raises(error, match=message) as caught:
        repvit_m1_backbone(state, device)
    assert name.rsplit(".", 2)[0] in str(caught.value)


def test_arguments(device, state):
    with pytest.raises(TypeError, match="state is a list; it must be a mapping"):
        repvit_m1_backbone([], device)
    with pytest.raises(ValueError, match="batch is 0; it must be at least 1"):
        repvit_m1_backbone(state, device, batch=0)
    with pytest.raises(ValueError, match="size is"):
        repvit_m1_backbone(state, device, size=0)
    with pytest.raises(TypeError, match="dtype is 'int8'"):
        repvit_m1_backbone(state, device, dtype="int8")


def test_it_is_reached_from_the_package():
    assert pwconv.models.repvit_m1_backbone is repvit_m1_backbone
