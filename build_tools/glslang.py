"""glslang through its C entry point, as the slangpy wheel carries it.

PyPI has no package of glslang itself for every platform; slangpy's wheels ship a current one as
``libslang-glslang-*``, which exports a plain, versioned C function. slangpy is never imported: the
library is found through the wheel's file list and loaded with ctypes.
"""

from __future__ import annotations

import ctypes
import platform
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.tags import sys_tags

# Pinned, so that the same tree gives the same SPIR-V.
_VERSION = "0.43.1"
_PYTHONS = tuple(f"cp3{minor}" for minor in range(10, 15))
_PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_34_aarch64", "macosx_26_0_arm64", "win_amd64")

_STAGE_COMPUTE = 6
_ACTION_GLSL_TO_SPIRV = 0
# The next level unrolls and inlines everything, to five times the size; drivers do that themselves,
# once they know the specialization constants.
_OPTIMIZATION_DEFAULT = 1

_Sink = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class GlslError(Exception):
    """GLSL that does not compile, or SPIR-V that does not validate."""


class _Request(ctypes.Structure):
    """``glslang_CompileRequest_1_2``; the size field tells the library which version it is."""

    _fields_ = (
        ("size_in_bytes", ctypes.c_size_t),
        ("source_path", ctypes.c_char_p),
        ("begin", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("diagnostic", _Sink),
        ("diagnostic_user", ctypes.c_void_p),
        ("output", _Sink),
        ("output_user", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("action", ctypes.c_uint),
        ("optimization", ctypes.c_uint),
        ("debug_info", ctypes.c_uint),
        ("spirv_target_name", ctypes.c_char_p),
        ("spirv_major", ctypes.c_int),
        ("spirv_minor", ctypes.c_int),
        ("spirv_patch", ctypes.c_int),
        ("entry_point", ctypes.c_char_p),
    )


class Glslang:
    """The compiler.

    Attributes
    ----------
    version : str
        Names the exact build, so that outputs can be tied to it.
    """

    def __init__(self) -> None:
        path, self.version = _find_library()
        library = ctypes.CDLL(str(path))
        self._compile = library.glslang_compile_1_2
        self._compile.argtypes = [ctypes.POINTER(_Request)]
        self._compile.restype = ctypes.c_int
        self._validate = library.glslang_validateSPIRV
        self._validate.argtypes = [ctypes.c_char_p, ctypes.c_int]
        self._validate.restype = ctypes.c_bool

    def compile(self, source: str, *, name: str, spirv: tuple[int, int]) -> bytes:
        """Compile one compute shader, optimized.

        Parameters
        ----------
        source : str
            GLSL with its includes already in place.
        name : str
            What messages call the shader.
        spirv : tuple of int
            SPIR-V version, major and minor.

        Raises
        ------
        GlslError
            With glslang's messages.
        """
        text = source.encode()
        buffer = ctypes.create_string_buffer(text, len(text))
        begin = ctypes.addressof(buffer)
        output: list[bytes] = []
        messages: list[bytes] = []

        # Both sinks stay referenced here until the call returns: ctypes does not hold them.
        on_output = _Sink(lambda data, size, _: output.append(ctypes.string_at(data, size)))
        on_message = _Sink(lambda data, size, _: messages.append(ctypes.string_at(data, size)))
        request = _Request(
            size_in_bytes=ctypes.sizeof(_Request),
            source_path=name.encode(),
            begin=begin,
            end=begin + len(text),
            diagnostic=on_message,
            output=on_output,
            stage=_STAGE_COMPUTE,
            action=_ACTION_GLSL_TO_SPIRV,
            optimization=_OPTIMIZATION_DEFAULT,
            debug_info=0,
            spirv_major=spirv[0],
            spirv_minor=spirv[1],
            entry_point=b"main",
        )
        failed = self._compile(ctypes.byref(request))
        code = b"".join(output)
        if failed or not code:
            report = b"".join(messages).decode(errors="replace").strip()
            raise GlslError(f"{name} does not compile:\n{report or 'glslang gave no message'}")
        return code

    def validate(self, code: bytes, *, name: str) -> None:
        """Check SPIR-V with spirv-val's rules for Vulkan; its message goes to standard error.

        Raises
        ------
        GlslError
            The code breaks a rule.
        """
        if len(code) % 4 or not self._validate(code, len(code) // 4):
            raise GlslError(f"{name}: the SPIR-V does not validate (the rule is on standard error)")


def requirement() -> str:
    """Return what has to be installed for :class:`Glslang`.

    Raises
    ------
    GlslError
        There is no wheel of it for this Python and system; it cannot be built from source by pip.
    """
    able = {(tag.interpreter, tag.platform) for tag in sys_tags()}
    wheels = {(python, system) for python in _PYTHONS for system in _PLATFORMS}
    if not able & wheels:
        libc = " ".join(platform.libc_ver()).strip()
        raise GlslError(
            f"the shaders are compiled by the glslang in slangpy {_VERSION}, which has wheels for "
            f"CPython {_PYTHONS[0].replace('cp3', '3.')} to {_PYTHONS[-1].replace('cp3', '3.')} on "
            f"{', '.join(_PLATFORMS)} alone (manylinux_2_34: glibc 2.34 or newer). This is "
            f"{platform.python_implementation()} {platform.python_version()} on "
            f"{sysconfig.get_platform()}{f' with {libc}' if libc else ''}. Build pwconv's wheel on "
            "one of those, with 'pip wheel --no-deps .', and install it here: it is pure Python "
            "with the SPIR-V inside, and needs no compiler"
        )
    return f"slangpy=={_VERSION}"


def _find_library() -> tuple[Path, str]:
    try:
        distribution = metadata.distribution("slangpy")
    except metadata.PackageNotFoundError:
        raise GlslError(
            "no glslang: the slangpy package, a build requirement of pwconv, is not installed"
        ) from None
    for file in distribution.files or ():
        if "slang-glslang" in file.name and file.suffix in (".so", ".dll", ".dylib"):
            path = Path(str(distribution.locate_file(file)))
            return path, f"slangpy {distribution.version} {file.name} -O{_OPTIMIZATION_DEFAULT}"
    raise GlslError(
        f"slangpy {distribution.version} carries no slang-glslang library; "
        "install the version that pyproject.toml names under build-system"
    )
