"""The two element types, by every name a user may give them."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT32 = np.dtype(np.float32)
FLOAT16 = np.dtype(np.float16)

DType = np.dtype[Any]
Array = npt.NDArray[Any]

_AXIS_NAMES = {FLOAT32: "fp32", FLOAT16: "fp16"}


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
            if dtype in _AXIS_NAMES:
                return dtype
    raise TypeError(f"{argument} is {value!r}; it must be 'float32' or 'float16'")


def as_float_array(value: Any, argument: str) -> Array:
    """Return the value as a numpy array of float32 or float16; nothing is converted.

    Raises
    ------
    TypeError
        Another element type; the message gives the cast to use.
    """
    array = np.asarray(value)
    if array.dtype.newbyteorder("=") not in _AXIS_NAMES:
        raise TypeError(
            f"{argument} has dtype {array.dtype}; pwconv computes in float32 and float16: pass "
            f"numpy.asarray({argument}, dtype=numpy.float32)"
        )
    return array


def axis_name(dtype: DType) -> str:
    """Return what variants.toml calls the type."""
    return _AXIS_NAMES[dtype]
