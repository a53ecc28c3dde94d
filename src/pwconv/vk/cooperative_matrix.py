"""The matrix products that a device computes in hardware, as it lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pwconv.vk import api as vk

# VkComponentTypeKHR
_COMPONENTS = {
    0: "float16",
    1: "float32",
    2: "float64",
    3: "int8",
    4: "int16",
    5: "int32",
    6: "int64",
    7: "uint8",
    8: "uint16",
    9: "uint32",
    10: "uint64",
    1000141000: "bfloat16",
}
# VkScopeKHR
_SCOPES = {2: "workgroup", 3: "subgroup"}


@dataclass(frozen=True)
class Matrix:
    """A product [M, K] · [K, N] + [M, N].

    Attributes
    ----------
    m, n, k : int
        Its sizes; where ``flexible``, what they must be multiples of.
    operand, accumulator : str
        Types of the factors, and of what is added to and of the result.
    scope : "subgroup" or "workgroup"
        Whose invocations compute it together.
    flexible : bool
    invocations : int
        Of the workgroup, where that is the scope; else 0.
    """

    m: int
    n: int
    k: int
    operand: str
    accumulator: str
    scope: str
    flexible: bool = False
    invocations: int = 0

    def __str__(self) -> str:
        return f"{self.m}×{self.n}×{self.k} {self.operand} → {self.accumulator}"


class _Query(NamedTuple):
    """A function that fills structures of words; ``words`` follow the type and ``pNext``."""

    function: str
    structure_type: int
    words: int


# Neither function is in the vulkan package; their structures are read as words.
_FIXED = _Query("vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR", 1000506001, 9)
_FLEXIBLE = _Query(
    "vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV", 1000593001, 10
)


def query(instance: Any, device: Any, features: frozenset[str]) -> tuple[Matrix, ...]:
    """Return the products of a physical device that pwconv has a word for.

    Saturating ones, and ones whose factors or sums differ in type, are left out.
    """
    found: list[Matrix] = []
    for feature, wanted in (
        ("cooperativeMatrix", _FIXED),
        ("cooperativeMatrixFlexibleDimensions", _FLEXIBLE),
    ):
        listed = _ask(instance, device, wanted) if feature in features else []
        for m, n, k, a, b, c, result, saturating, scope, *invocations in listed:
            if a == b and c == result and not saturating and _known(a, c, scope):
                types = _COMPONENTS[a], _COMPONENTS[c], _SCOPES[scope]
                found.append(Matrix(m, n, k, *types, wanted is _FLEXIBLE, *invocations))
    # lavapipe lists each twice.
    return tuple(dict.fromkeys(found))


def _known(operand: int, accumulator: int, scope: int) -> bool:
    return operand in _COMPONENTS and accumulator in _COMPONENTS and scope in _SCOPES


def _ask(instance: Any, device: Any, wanted: _Query) -> list[tuple[int, ...]]:
    function: Callable[..., None] = vk.instance_pointer(
        instance, wanted.function, "VkResult(*)(VkPhysicalDevice, uint32_t*, void*)"
    )
    count = vk.ffi.new("uint32_t*")
    function(device, count, vk.ffi.NULL)
    first = vk.first_member()
    # In words; a structure ends on a multiple of a pointer's bytes.
    stride = -(-(first + wanted.words) // (first // 2)) * (first // 2)
    words = vk.ffi.new("uint32_t[]", stride * max(count[0], 1))
    for i in range(count[0]):
        words[stride * i] = wanted.structure_type
    function(device, count, words)
    starts = (stride * i + first for i in range(count[0]))
    return [tuple(words[start : start + wanted.words]) for start in starts]
