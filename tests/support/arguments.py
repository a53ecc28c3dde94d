"""Arguments that are right, nearly right, and anything at all; and what a call may do with them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import pwconv

Draw = Callable[..., Any]

ACTIVATIONS = (
    *(None, "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"),
    *(("clamp", -0.5, 1), ("clamp", -math.inf, 1e300), ("leaky_relu", 0.1)),
)

# Not their base class, which is for failures that nobody thought of.
DOCUMENTED = (
    *(TypeError, ValueError, pwconv.UnsupportedError, pwconv.OutOfMemoryError),
    *(pwconv.ClosedError, pwconv.NoDeviceError),
)

_numbers = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([2**15, 2**16 + 1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**40), 10**400]),
    st.floats(),
    st.sampled_from([np.int8(3), np.uint64(2**63), np.float32(2), np.bool_(True), True, 1j]),
)
_odd_arrays = st.sampled_from(
    [
        *(np.ones(s, np.float32) for s in ((), (0,), (1,), (3,), (0, 4), (2, 0), (1,) * 9)),
        *(np.ones((2, 3), t) for t in (bool, np.int8, np.uint64, np.float64, np.longdouble)),
        *(np.ones((2, 3), t) for t in (complex, object, "U3", "S3", "V4", "M8[s]", "f4,f4")),
        np.ma.masked_array(np.ones((2, 3), np.float32), mask=True),
        np.broadcast_to(np.float32(1), (2**40, 3)),
        np.broadcast_to(np.float16(1), (2, 2**40)),
        np.broadcast_to(np.float32(1), (3, 2**20, 2**20)),
        np.broadcast_to(np.float32(1), (2**16, 2**16, 1, 1)),
        np.broadcast_to(np.float32(1), (1, 3, 2**31, 1)),
    ]
)
_leaves = st.one_of(
    st.none(),
    _numbers,
    st.text(max_size=5),
    st.binary(max_size=3),
    _odd_arrays,
    st.sampled_from(
        [*ACTIVATIONS, "auto", "buffer", "texture3d", "texture2d", "float16", "float32"]
    ),
    st.sampled_from([object(), Ellipsis, slice(3), int, np.float16, np.dtype(">f4"), len]),
    st.sampled_from([("clamp",), ("clamp", 1, 0), ("clamp", "a", None), ("leaky_relu", 1e300)]),
)
anything = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=5,
)
lengths = st.one_of(
    st.integers(0, 9),
    st.sampled_from([-1, 63, 4097, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 10**30]),
)
shapes = st.lists(lengths, max_size=6).map(tuple)


def array(draw: Draw, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
    """Draw an array of order one, in any byte order, strides and alignment."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = dtype or draw(st.sampled_from(["float32", "float16"]))
    values = rng.standard_normal(shape).astype(dtype)
    if draw(st.booleans()):
        values = values.astype(values.dtype.newbyteorder(draw(st.sampled_from("<>"))))
    form = draw(
        st.sampled_from(["plain", "fortran", "every other", "reversed", "unaligned", "view"])
    )
    if form == "fortran":
        values = np.asfortranarray(values)
    elif form == "every other":
        values = values.repeat(2, axis=-1)[..., ::2]
    elif form == "reversed":
        values = np.flip(np.ascontiguousarray(np.flip(values)))
    elif form == "unaligned":
        raw = np.frombuffer(b"\0" + values.tobytes(), values.dtype, values.size, 1)
        values = raw.reshape(shape)
    elif form == "view" and shape and shape[0]:
        values = np.broadcast_to(values[:1], shape)
    return values


def spoil(draw: Draw, arguments: dict[str, Any], others: st.SearchStrategy[Any]) -> bool:
    """Replace some of a call's arguments, or none; return whether all are as they were."""
    names = draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2, unique=True))
    for name in names:
        arguments[name] = draw(st.one_of(others, anything))
    return not names


def attempt(call: Callable[[], Any], *, right: bool) -> Any:
    """Return what a call gives, or None where it raises what it is documented to raise."""
    with contextlib.suppress(*() if right else DOCUMENTED):
        return call()
    return None


def assert_about(actual: Any, expected: np.ndarray, bound: np.ndarray) -> None:
    """Assert a bound where the exact result is finite, and else that very infinity or NaN."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    finite = np.isfinite(expected)
    within = np.abs(actual[finite].astype(np.float64) - expected[finite]) <= bound[finite]
    assert within.all()
    np.testing.assert_array_equal(actual[~finite], expected[~finite].astype(actual.dtype))
