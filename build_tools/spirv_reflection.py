"""What a SPIR-V module expects from its host: bindings, specialization and push constants.

Read from the compiled module, so that the manifest cannot disagree with the shader. Only what
pwconv's kernels use is understood; anything else is an error here, at build time, rather than a
wrong binding at run time. Opcode and enumerant numbers: SPIR-V specification 1.6, sections 3.20,
3.7 and 3.52.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MAGIC = 0x07230203
_HEADER_WORDS = 5

_OP_NAME, _OP_MEMBER_NAME = 5, 6
_OP_TYPE_BOOL, _OP_TYPE_INT, _OP_TYPE_FLOAT = 20, 21, 22
_OP_TYPE_VECTOR, _OP_TYPE_ARRAY, _OP_CONSTANT = 23, 28, 43
_OP_TYPE_IMAGE, _OP_TYPE_STRUCT, _OP_TYPE_POINTER = 25, 30, 32
_OP_SPEC_TRUE, _OP_SPEC_FALSE, _OP_SPEC_CONSTANT = 48, 49, 50
_OP_EXECUTION_MODE, _OP_SPEC_COMPOSITE, _OP_EXECUTION_MODE_ID = 16, 51, 331
_OP_VARIABLE, _OP_DECORATE, _OP_MEMBER_DECORATE = 59, 71, 72

_SPEC_ID, _BUILT_IN, _BINDING, _DESCRIPTOR_SET, _OFFSET = 1, 11, 33, 34, 35
_NON_WRITABLE, _NON_READABLE = 24, 25
_WORKGROUP_SIZE, _LOCAL_SIZE, _LOCAL_SIZE_ID = 25, 17, 38
_UNIFORM_CONSTANT, _WORKGROUP, _PUSH_CONSTANT, _STORAGE_BUFFER = 0, 4, 9, 12
_SAMPLED, _STORAGE = 1, 2


class ReflectionError(Exception):
    """A module that holds something pwconv's host code cannot feed."""


@dataclass(frozen=True)
class Reflection:
    """A module's interface, in the form the manifest stores."""

    bindings: list[dict[str, Any]]
    specialization_constants: list[dict[str, Any]]
    push_constants: list[dict[str, Any]]
    workgroup: list[int] | None
    """The workgroup size, where it is fixed and not left to specialization constants."""
    shared_memory: int
    """Bytes of it that a workgroup takes."""


def reflect(code: bytes) -> Reflection:
    """Read a compute module's interface.

    Raises
    ------
    ReflectionError
        Not SPIR-V, or a resource of a kind pwconv does not use.
    """
    module = _Module(code)
    return Reflection(
        module.bindings(),
        module.specialization_constants(),
        module.push_constants(),
        module.workgroup,
        module.shared_memory(),
    )


class _Module:
    def __init__(self, code: bytes) -> None:
        self.names: dict[int, str] = {}
        self.member_names: dict[tuple[int, int], str] = {}
        self.decorations: dict[tuple[int, int], int] = {}
        self.offsets: dict[tuple[int, int], int] = {}
        self.restricted: set[tuple[int, int]] = set()
        self.types: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.constants: dict[int, int] = {}
        self.spec_constants: list[tuple[int, int, int]] = []
        self.variables: list[tuple[int, int, int]] = []
        self.workgroup: list[int] | None = None
        for opcode, words in _instructions(code):
            self._read(opcode, words)

    def _read(self, opcode: int, words: tuple[int, ...]) -> None:
        if opcode == _OP_NAME:
            self.names[words[0]] = _string(words[1:])
        elif opcode == _OP_MEMBER_NAME:
            self.member_names[words[0], words[1]] = _string(words[2:])
        elif opcode == _OP_DECORATE and len(words) > 2:
            self.decorations[words[0], words[1]] = words[2]
        elif opcode == _OP_DECORATE:
            self.restricted.add((words[0], words[1]))
        elif opcode == _OP_MEMBER_DECORATE and words[2] == _OFFSET:
            self.offsets[words[0], words[1]] = words[3]
        elif opcode == _OP_MEMBER_DECORATE and words[1] == 0:
            self.restricted.add((words[0], words[2]))  # of a buffer's one member
        elif _OP_TYPE_BOOL <= opcode <= _OP_TYPE_POINTER:
            self.types[words[0]] = (opcode, words[1:])
        elif opcode == _OP_CONSTANT:
            self.constants[words[1]] = words[2]
        elif opcode in (_OP_SPEC_TRUE, _OP_SPEC_FALSE):
            self.spec_constants.append((words[1], words[0], opcode == _OP_SPEC_TRUE))
        elif opcode == _OP_SPEC_CONSTANT:
            self.spec_constants.append((words[1], words[0], words[2]))
        elif opcode == _OP_SPEC_COMPOSITE:
            # SPIR-V 1.3 gives the workgroup size as a decorated constant, 1.6 as an execution mode.
            if self.decorations.get((words[1], _BUILT_IN)) == _WORKGROUP_SIZE:
                self._name_local_size(words[2:])
        elif opcode == _OP_EXECUTION_MODE and words[1] == _LOCAL_SIZE:
            self.workgroup = list(words[2:])
        elif opcode == _OP_EXECUTION_MODE_ID and words[1] == _LOCAL_SIZE_ID:
            self._name_local_size(words[2:])
        elif opcode == _OP_VARIABLE:
            self.variables.append((words[1], words[0], words[2]))

    def _name_local_size(self, constants: tuple[int, ...]) -> None:
        # LocalSize, which comes first, then holds only the constants' default values.
        self.workgroup = None
        for constant, axis in zip(constants, "xyz", strict=True):
            self.names[constant] = f"local_size_{axis}"

    def bindings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for variable, pointer, storage_class in self.variables:
            if (variable, _BINDING) not in self.decorations:
                continue
            if self.decorations.get((variable, _DESCRIPTOR_SET)) != 0:
                raise ReflectionError(f"{self._name(variable)}: only descriptor set 0 is used")
            pointee = self._pointee(pointer)
            kind = self._descriptor_type(pointee, storage_class)
            found.append(
                {
                    # A buffer without an instance name goes by its one member.
                    "name": self._name(variable) or self.member_names[pointee, 0],
                    "binding": self.decorations[variable, _BINDING],
                    "type": kind,
                    "access": "r" if kind == "sampled_image" else self._access(variable, pointee),
                }
            )
        found.sort(key=lambda binding: binding["binding"])
        if [binding["binding"] for binding in found] != list(range(len(found))):
            raise ReflectionError(f"bindings must be 0, 1, 2 … and all be used; they are {found}")
        return found

    def _access(self, variable: int, pointee: int) -> str:
        """Return "r", "w" or "rw": what ``readonly`` and ``writeonly`` leave."""
        restricted = {kind for owner, kind in self.restricted if owner in (variable, pointee)}
        if _NON_WRITABLE in restricted:
            return "r"
        return "w" if _NON_READABLE in restricted else "rw"

    def specialization_constants(self) -> list[dict[str, Any]]:
        found = [
            {
                "name": self._name(constant),
                "id": self.decorations[constant, _SPEC_ID],
                "type": self._scalar(type_id),
            }
            for constant, type_id, _ in self.spec_constants
            if (constant, _SPEC_ID) in self.decorations
        ]
        return sorted(found, key=lambda constant: constant["id"])

    def push_constants(self) -> list[dict[str, Any]]:
        for _, pointer, storage_class in self.variables:
            if storage_class == _PUSH_CONSTANT:
                block = self._pointee(pointer)
                return [
                    {
                        "name": self.member_names[block, index],
                        "offset": self.offsets[block, index],
                        "type": self._scalar(member),
                    }
                    for index, member in enumerate(self.types[block][1])
                ]
        return []

    def shared_memory(self) -> int:
        return sum(
            self._size(self._pointee(pointer))
            for _, pointer, storage_class in self.variables
            if storage_class == _WORKGROUP
        )

    def _size(self, type_id: int) -> int:
        opcode, operands = self.types[type_id]
        if opcode in (_OP_TYPE_INT, _OP_TYPE_FLOAT):
            return operands[0] // 8
        if opcode == _OP_TYPE_VECTOR:
            return operands[1] * self._size(operands[0])
        if opcode == _OP_TYPE_ARRAY and operands[1] in self.constants:
            return self.constants[operands[1]] * self._size(operands[0])
        raise ReflectionError(
            f"{self._name(type_id)}: shared memory holds arrays of constant length, of numbers or "
            "vectors"
        )

    def _name(self, identifier: int) -> str:
        return self.names.get(identifier, "")

    def _pointee(self, pointer: int) -> int:
        return self.types[pointer][1][1]

    def _descriptor_type(self, type_id: int, storage_class: int) -> str:
        opcode, operands = self.types[type_id]
        if storage_class == _STORAGE_BUFFER and opcode == _OP_TYPE_STRUCT:
            return "storage_buffer"
        if storage_class == _UNIFORM_CONSTANT and opcode == _OP_TYPE_IMAGE:
            kind = {_SAMPLED: "sampled_image", _STORAGE: "storage_image"}.get(operands[5])
            if kind:
                return kind
        raise ReflectionError(
            f"{self._name(type_id)}: pwconv binds storage buffers, sampled images and storage "
            f"images; this is opcode {opcode} in storage class {storage_class}"
        )

    def _scalar(self, type_id: int) -> str:
        opcode, operands = self.types[type_id]
        if opcode == _OP_TYPE_BOOL:
            return "bool"
        if opcode == _OP_TYPE_FLOAT and operands[0] == 32:
            return "float"
        if opcode == _OP_TYPE_INT and operands[0] == 32:
            return "int" if operands[1] else "uint"
        raise ReflectionError(
            f"constants passed from the host are 32-bit scalars; {self._name(type_id)} is not"
        )


def _instructions(code: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    if len(code) % 4 or len(code) < 4 * _HEADER_WORDS:
        raise ReflectionError(f"not SPIR-V: {len(code)} bytes")
    words = struct.unpack(f"<{len(code) // 4}I", code)
    if words[0] != _MAGIC:
        raise ReflectionError(f"not SPIR-V: the first word is {words[0]:#010x}")
    position = _HEADER_WORDS
    while position < len(words):
        count, opcode = words[position] >> 16, words[position] & 0xFFFF
        if count == 0:
            raise ReflectionError(f"not SPIR-V: an instruction of no words at word {position}")
        yield opcode, words[position + 1 : position + count]
        position += count


def _string(words: tuple[int, ...]) -> str:
    return struct.pack(f"<{len(words)}I", *words).split(b"\0", 1)[0].decode()
