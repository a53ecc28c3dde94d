"""Problems of every kind, asked of layers and graphs as a user would, in one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

import pwconv
from support import inside

Ask = Callable[[pwconv.Device], str]

DTYPES = ("float32", "float16")
STORAGES = ("texture3d", "buffer")

# K and N: of RepViT and EdgeTAM, powers of two, few, ragged and prime.
CHANNELS = (
    *((3, 8), (8, 32), (17, 13), (32, 64), (48, 48), (48, 96), (97, 101), (96, 192)),
    *((192, 384), (256, 32), (256, 256), (512, 160), (1024, 1000)),
)
SOME_CHANNELS = ((3, 8), (48, 96), (97, 101), (256, 256))
# N, H and W.
SIZES = (
    *((1, 7, 7), (1, 14, 14), (4, 28, 28), (1, 13, 29)),
    *((1, 64, 64), (1, 96, 96), (1, 128, 128), (1, 256, 256)),
)
SOME_SIZES = ((1, 14, 14), (2, 13, 29), (1, 128, 128))
# Up to 16 positions the samples of a batch share tiles.
TINY_SIZES = ((1, 1), (2, 2), (3, 3), (4, 4), (1, 17), (5, 5))
# About as long as a loop over K may be, of 4, 8, 16 or 32 products a trip.
LONG_K = (225_876, 225_880, 225_884, 426_672, 960_000, 960_032, 1_920_000, 1_920_032)
# Past what some textures take along W, H or depth, and past some buffers.
LARGE_SIZES = ((1, 1, 20_000), (1, 20_000, 1), (5_000, 1, 1), (1, 3_000, 3_000), (1, 4_096, 8_192))


def problems() -> Iterator[tuple[str, Ask]]:
    """Yield what says all of a problem, and what a device answers."""
    yield from _pointwise()
    yield from _linear()
    yield from _convolutions()
    yield from _pairs()
    yield from _other_nodes()


def answer(device: pwconv.Device, ask: Ask) -> str:
    """Return what a device runs, or the error that refuses."""
    try:
        return ask(device)
    except pwconv.PwconvError as error:
        return type(error).__name__


def _pointwise() -> Iterator[tuple[str, Ask]]:
    for size, channels, dtype, storage in product(SIZES, CHANNELS, DTYPES, STORAGES):
        yield _layer(size, channels, dtype, storage)
    for size, channels, dtype in product((*SIZES[::2], *LARGE_SIZES), SOME_CHANNELS[:3], DTYPES):
        yield _layer(size, channels, dtype, "auto")
    for size, dtype in product(LARGE_SIZES, DTYPES):
        yield _layer(size, (8, 16), dtype, "auto", x="texture3d")
    tiny = [(n, *size) for size in TINY_SIZES for n in (2, 100)]
    for size, channels, dtype, storage in product(tiny, SOME_CHANNELS[1:3], DTYPES, STORAGES):
        yield _layer(size, channels, dtype, storage)
    for size, channels, storage in product(SOME_SIZES, SOME_CHANNELS, STORAGES):
        yield _layer(size, channels, "float16", storage, accumulate="float16")
    for size, channels, dtype, storage, weight in product(
        SOME_SIZES, SOME_CHANNELS[1:], DTYPES, STORAGES, ("texture2d", "buffer")
    ):
        yield _layer(size, channels, dtype, storage, weight=weight)
    for size, channels, dtype, storage, moved in product(
        SOME_SIZES[1:],
        SOME_CHANNELS[1:3],
        DTYPES,
        STORAGES,
        ({"stride": 2}, {"padding": 1}, {"stride": (1, 3), "padding": (2, 0)}),
    ):
        yield _layer(size, channels, dtype, storage, **moved)
    for k, dtype in product(LONG_K, DTYPES):
        yield _layer((1, 4, 4), (k, 8), dtype, "buffer")


def _linear() -> Iterator[tuple[str, Ask]]:
    for rows, channels, dtype, storage in product(
        (1, 3, 8, 9, 64, 4096),
        ((64, 64), (37, 101), (256, 1000), (2048, 8), (768, 3072)),
        DTYPES,
        ("auto", *STORAGES),
    ):
        yield _linear_layer((rows, channels[0]), channels, dtype, storage)
    # Of one channel each row has texels of its own.
    tall = tuple((rows, 1, 4, 64) for rows in (1, 3, 64, 512, 4096))
    for shape, dtype, storage in product(
        ((64,), (5, 64), (3, 5, 64), (4, 3, 7, 64), *tall), DTYPES, STORAGES
    ):
        yield _linear_layer(shape, (64, 48), dtype, storage, x=storage)
    for shape, dtype, storage in product(
        ((4, 9, 64), (4, 100, 3, 64)), DTYPES, ("auto", *STORAGES)
    ):
        yield _linear_layer(shape, (64, 48), dtype, storage, batches=4)
        if storage != "buffer":
            yield _linear_layer(shape, (64, 48), dtype, storage, batches=4, x="texture3d")
    for rows, storage in product((3, 1000), STORAGES):
        yield _linear_layer((rows, 256), (256, 96), "float16", storage, accumulate="float16")
    for k, dtype in product(LONG_K, DTYPES):
        yield _linear_layer((16, k), (k, 8), dtype, "buffer")


def _convolutions() -> Iterator[tuple[str, Ask]]:
    for (n, h, w), (k, c), kernel, dtype, storage in product(
        SOME_SIZES[1:], SOME_CHANNELS[:3], ((3, 3), (1, 5), (7, 7)), DTYPES, STORAGES
    ):
        yield _graph(
            f"conv2d {k}→{c} {_size(kernel)} of {_size((n, h, w))}",
            *(dtype, storage, (n, k, h, w)),
            lambda g, x, c=c, k=k, kernel=kernel: g.conv2d(
                x, _zeros(g.dtype, c, k, *kernel), padding=(kernel[0] // 2, kernel[1] // 2)
            ),
        )
    for (n, h, w), kernel, stride, dtype, storage in product(
        SOME_SIZES[1:], (3, 7), (1, 2), DTYPES, STORAGES
    ):
        yield _graph(
            f"conv2d_dw 17 {_size((kernel, kernel))} stride {stride} of {_size((n, h, w))}",
            *(dtype, storage, (n, 17, h, w)),
            lambda g, x, kernel=kernel, stride=stride: g.conv2d_dw(
                x, _zeros(g.dtype, 17, 1, kernel, kernel), stride=stride, padding=kernel // 2
            ),
        )


def _pairs() -> Iterator[tuple[str, Ask]]:
    """Two pointwise convolutions that may become one, or whose stride may become a node."""
    widths = ((48, 96, 48), (96, 192, 96), (192, 384, 192), (48, 256, 32), (17, 40, 13))
    for (n, h, w), (k, hidden, c), dtype, storage in product(
        ((1, 16, 16), (100, 2, 2), (1, 64, 64), (1, 256, 256)), widths, DTYPES, STORAGES
    ):
        yield _graph(
            f"conv2d_pw {k}→{hidden}→{c} of {_size((n, h, w))}",
            *(dtype, storage, (n, k, h, w)),
            lambda g, x, k=k, hidden=hidden, c=c: g.conv2d_pw(
                g.conv2d_pw(x, _zeros(g.dtype, hidden, k)), _zeros(g.dtype, c, hidden)
            ),
        )
    for (k, hidden, c), dtype, storage in product(widths[::2], DTYPES, ("auto", *STORAGES)):
        yield _graph(
            f"conv2d_pw {k}→{hidden}→{c} stride 2 of 1×128×128",
            *(dtype, storage, (1, k, 128, 128)),
            lambda g, x, k=k, hidden=hidden, c=c: g.conv2d_pw(
                g.conv2d_pw(x, _zeros(g.dtype, hidden, k), stride=2), _zeros(g.dtype, c, hidden)
            ),
        )
        yield _graph(
            f"conv2d_pw of the sum {k}→{hidden} scaled →{c} of 1×64×64",
            *(dtype, storage, (1, k, 64, 64)),
            lambda g, x, k=k, hidden=hidden, c=c: _squeezed(g, x, k, hidden, c),
        )


def _squeezed(graph: pwconv.Graph, x: Any, k: int, hidden: int, c: int) -> Any:
    """Scale the channels of what a convolution with a residual gives, and convolve that."""
    wide = graph.conv2d_pw(x, _zeros(graph.dtype, hidden, k))
    wide = graph.conv2d_pw(wide, _zeros(graph.dtype, hidden, hidden), residual=wide)
    scaled = graph.mul(wide, graph.activation(graph.global_avg_pool(wide), "sigmoid"))
    return graph.conv2d_pw(scaled, _zeros(graph.dtype, c, hidden))


def _other_nodes() -> Iterator[tuple[str, Ask]]:
    nodes: dict[str, Callable[[pwconv.Graph, Any], Any]] = {
        "activation": lambda g, x: g.activation(x, "relu"),
        "add": lambda g, x: g.add(x, x),
        "concat": lambda g, x: g.concat([x, x]),
        "slice": lambda g, x: g.slice(x, 1, 3),
        "global_avg_pool": lambda g, x: g.global_avg_pool(x),
        "upsample": lambda g, x: g.upsample(x, 2),
        "linear": lambda g, x: g.linear(x, _zeros(g.dtype, 24, x.shape[-1])),
    }
    for (n, h, w), (name, make), dtype, storage in product(
        SOME_SIZES[1:], nodes.items(), DTYPES, STORAGES
    ):
        yield _graph(f"{name} of {_size((n, 33, h, w))}", dtype, storage, (n, 33, h, w), make)


def _layer(
    size: tuple[int, int, int],
    channels: tuple[int, int],
    dtype: str,
    storage: str,
    *,
    weight: str = "auto",
    x: str = "auto",
    **settings: Any,
) -> tuple[str, Ask]:
    (n, h, w), (k, c) = size, channels

    def ask(device: pwconv.Device) -> str:
        made = _zeros(dtype, c, k)
        if weight != "auto":
            made = pwconv.pack_linear_weight(made, storage=weight, device=device)
        layer = pwconv.PointwiseConv2d(made, storage=storage, device=device, **settings)
        return _explained(layer.explain((n, k, h, w), x))

    said = {"weight": weight, "x": x, **settings}
    return f"conv2d_pw {k}→{c} of {_size(size)} {dtype} {storage}{_said(said)}", ask


def _linear_layer(
    shape: tuple[int, ...],
    channels: tuple[int, int],
    dtype: str,
    storage: str,
    *,
    batches: int = 1,
    x: str = "auto",
    **settings: Any,
) -> tuple[str, Ask]:
    k, c = channels

    def ask(device: pwconv.Device) -> str:
        weight = _zeros(dtype, batches, c, k) if batches > 1 else _zeros(dtype, c, k)
        layer = pwconv.Linear(weight, storage=storage, device=device, **settings)
        return _explained(layer.explain(shape, x))

    said = {"x": x, **settings}
    weights = f"{batches} times " if batches > 1 else ""
    return f"linear {weights}{k}→{c} of {_size(shape)} {dtype} {storage}{_said(said)}", ask


def _graph(
    what: str,
    dtype: str,
    storage: str,
    shape: tuple[int, ...],
    make: Callable[[pwconv.Graph, Any], Any],
) -> tuple[str, Ask]:
    def ask(device: pwconv.Device) -> str:
        graph = pwconv.Graph(device, dtype, storage=storage)
        graph.output("y", make(graph, graph.input("x", shape)))
        launches = [launch for node in inside.program(graph).dispatches.values() for launch in node]
        return f"{graph.storage} " + " + ".join(map(_planned, launches))

    return f"graph: {what} {dtype} {storage}", ask


def _explained(told: Any) -> str:
    what = f"{told.variant} {_size(told.workgroup)}{_parts(told.workgroup_counts)}"
    return f"{told.storage} {told.weight_storage} {what}"


def _planned(launch: Any) -> str:
    plan = launch.plan
    return f"{plan.variant.name} {_size(plan.workgroup)}{_parts(plan.parts)}"


def _parts(parts: Any) -> str:
    return f" in {len(parts)} parts" if len(parts) > 1 else ""


def _said(settings: dict[str, Any]) -> str:
    """Return what is not as it is by default."""
    return "".join(f" {name}={value}" for name, value in settings.items() if value != "auto")


def _size(lengths: tuple[int, ...]) -> str:
    return "×".join(map(str, lengths))


def _zeros(dtype: Any, *shape: int) -> Any:
    """Return an array that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
