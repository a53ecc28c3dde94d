"""Structures that the vulkan package does not know, read and written as words."""

from __future__ import annotations

import pytest

from pwconv.vk import api as vk
from pwconv.vk import features
from support import inside


def test_members_begin_after_two_pointers(monkeypatch):
    class Package:
        class ffi:  # noqa: N801
            @staticmethod
            def sizeof(name: str) -> int:
                return {"void*": 4}[name]

    assert vk.first_member() == (4 if vk.ffi.sizeof("void*") == 8 else 2)
    monkeypatch.setattr(*inside.slots.package, lambda: Package)
    assert vk.first_member.__wrapped__() == 2  # as on a 32-bit system


@pytest.mark.parametrize("first", [2, 4])
def test_features_are_read_and_asked_for_where_members_begin(monkeypatch, first):
    monkeypatch.setattr(vk, "first_member", lambda: first)
    structures: list[object] = []

    class Features:
        def __init__(self, pNext: object) -> None:  # noqa: N803
            self.structure = pNext
            structures.append(pNext)

    def answer(_device: object, chain: Features) -> None:
        if chain.structure[0] == 1000082000:  # shaderFloat16, shaderInt8
            chain.structure[first] = 1

    monkeypatch.setattr(vk, "VkPhysicalDeviceFeatures2", Features)
    monkeypatch.setattr(vk, "vkGetPhysicalDeviceFeatures2", answer)
    assert features.query(None, vk.API_1_2, frozenset()) == {"shaderFloat16"}
    chain, names, alive = features.enable(
        frozenset({"shaderFloat16", "storageBuffer16BitAccess"}), vk.API_1_2, frozenset()
    )
    assert names == []
    assert [(words[0], words[first], words[first + 1]) for words in alive] == [
        (1000083000, 1, 0),
        (1000082000, 1, 0),
    ]
    assert chain is alive[1]
    if 4 * first == 2 * vk.ffi.sizeof("void*"):
        assert vk.ffi.cast("void**", chain)[1] == vk.ffi.cast("void*", alive[0])


@pytest.mark.parametrize("first", [2, 4])
def test_matrices_are_read_where_members_begin(monkeypatch, first):
    monkeypatch.setattr(vk, "first_member", lambda: first)
    listed = [tuple(range(10, 19)), tuple(range(20, 29))]
    stride = 11 if first == 2 else 14

    def fill(_device: object, count: object, words: object) -> None:
        count[0] = len(listed)
        if words != vk.ffi.NULL:
            for i, members in enumerate(listed):
                assert words[stride * i] == inside.FIXED_MATRICES.structure_type
                for j, member in enumerate(members):
                    words[stride * i + first + j] = member

    monkeypatch.setattr(vk, "instance_pointer", lambda *_: fill)
    assert inside.ask_matrices(None, None, inside.FIXED_MATRICES) == listed
