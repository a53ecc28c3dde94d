"""The two element types, by every name a user may give them; and bytes, of images."""

from __future__ import annotations

import contextlib
from numbers import Real
from typing import Any

import numpy as np

FLOAT32 = np.dtype(np.float32)
FLOAT16 = np.dtype(np.float16)
UINT8 = np.dtype(np.uint8)

DType = np.dtype[Any]
Array = np.ndarray[Any, np.dtype[Any]]

_AXIS_NAMES = {FLOAT32: "fp32", FLOAT16: "fp16", UINT8: "u8"}


def as_dtype(value: Any, argument: str = "dtype") -> DType:
    """Return float32 or float16 from a name, a numpy type or a numpy dtype.

    Raises
    ------
    TypeError
        Anything else.
    """
    if value is not None:
        with contextlib.suppress(TypeError):
            dtype: DType = np.dtype(value).newbyteorder("=")
            if dtype in (FLOAT32, FLOAT16):
                return dtype
    raise TypeError(f"{argument} is {value!r}; it must be 'float32' or 'float16'")


def as_float_array(value: Any, argument: str) -> Array:
    """Return the value as a numpy array of float32 or float16; nothing is converted.

    Raises
    ------
    TypeError
        Another element type, a mask, or what numpy takes for no array; the message says what to
        pass instead.
    ValueError
        Rows of different lengths.
    """
    plain = type(value) is np.ndarray
    array = value if plain else _any_array(value, argument)
    if array.dtype.newbyteorder("=") not in (FLOAT32, FLOAT16):
        raise TypeError(
            f"{argument} has dtype {array.dtype}; pwconv computes in float32 and float16: "
            f"{_cast(array, argument)}"
        )
    if not plain and (_is_masked(array) or _is_masked(value)):
        raise TypeError(
            f"{argument} is a masked array, and there are no masks on a device: pass "
            f"{argument}.filled(number), or {argument}.data to have what is masked computed too"
        )
    return np.asarray(array)


def convert(array: Array, dtype: DType) -> Array:
    """Return an array in another type as a device converts it: to nearest, ties to even.

    float16 is infinite past 65504; numpy would warn of it.
    """
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def _any_array(value: Any, argument: str) -> Array:
    try:
        return np.asanyarray(value)  # numpy.asarray would drop a mask
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        if _of_torch(value):
            # It needs gradients, is on another device, or of a type that numpy has not.
            widened = ".float()" if "bfloat16" in str(getattr(value, "dtype", "")) else ""
            advice = f"{argument}.detach(){widened}.cpu().numpy()"
        elif isinstance(value, list | tuple) and any(map(_of_torch, value)):
            advice = "arrays, each by tensor.detach().cpu().numpy()"
        else:
            advice = "a numpy array of float32 or float16, its rows all of one length"
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"{argument} is a {type(value).__name__} that numpy makes no array of ({error}); pass "
            f"{advice}"
        ) from error


def _of_torch(value: Any) -> bool:
    return hasattr(type(value), "detach")


def _is_masked(value: Any) -> bool:
    """Return True for a masked array, or a list with one in it."""
    if isinstance(value, list | tuple):
        return any(map(_is_masked, value))
    return isinstance(value, np.ma.MaskedArray)


def _cast(array: Array, argument: str) -> str:
    """Return how to make an array of float32 from one of another type."""
    dtype = array.dtype
    if dtype.names:
        field = f"{argument}[{dtype.names[0]!r}]"
        return f"pass numpy.asarray({field}, dtype=numpy.float32), or another of its fields"
    if dtype.kind == "c":
        return (
            f"pass numpy.real({argument}).astype(numpy.float32), and the imaginary parts as "
            "channels of their own"
        )
    numbers = dtype.kind in "biuf" or dtype.isbuiltin == 2  # such as bfloat16, of ml_dtypes
    if dtype.kind == "O":
        numbers = all(isinstance(element, Real) for element in array.flat)
    if numbers:
        return f"pass numpy.asarray({argument}, dtype=numpy.float32)"
    return "pass numbers, all rows of one length"


def axis_name(dtype: DType) -> str:
    """Return the name of the type in variants.toml."""
    return _AXIS_NAMES[dtype]
