"""The compiler's binding."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from packaging.tags import Tag

import glslang
from glslang import Glslang, GlslError
from hatch_build import ShaderBuildHook
from spirv_reflection import ReflectionError, reflect

ROOT = Path(__file__).parents[2]

SHADER = """#version 450
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
layout(constant_id = 3) const bool FLAG = true;
layout(constant_id = 4) const float SCALE = 1.0;
layout(push_constant) uniform PushConstants { uint count; int offset; float bias; } pc;
layout(set = 0, binding = 0) buffer Data { float data[]; };
layout(set = 0, binding = 1, rgba32f) uniform writeonly image2D target;
void main() {
    const uint i = gl_GlobalInvocationID.x;
    if (i < pc.count && FLAG) {
        data[i + pc.offset] *= SCALE + pc.bias;
        imageStore(target, ivec2(i, 0), vec4(data[i]));
    }
}
"""


@pytest.fixture(scope="module")
def compiler() -> Glslang:
    return Glslang()


@pytest.mark.parametrize("spirv", [(1, 3), (1, 5), (1, 6)])
def test_compiles_and_validates(compiler, spirv):
    code = compiler.compile(SHADER, name="test.comp", spirv=spirv)
    compiler.validate(code, name="test.comp")
    assert code[:4] == b"\x03\x02\x23\x07"
    assert code[5:7] == bytes(reversed(spirv))


def test_the_same_source_gives_the_same_bytes(compiler):
    first = compiler.compile(SHADER, name="test.comp", spirv=(1, 3))
    assert Glslang().compile(SHADER, name="test.comp", spirv=(1, 3)) == first


def test_the_optimizer_runs(compiler):
    folded = SHADER.replace("pc.offset]", "pc.offset * (3 - 2)]")
    plain = compiler.compile(SHADER, name="test.comp", spirv=(1, 3))
    assert len(compiler.compile(folded, name="test.comp", spirv=(1, 3))) == len(plain)


def test_an_error_names_file_and_line(compiler):
    with pytest.raises(
        GlslError, match=r"wrong\.comp does not compile:\n.*wrong\.comp:7.*'nothing'"
    ):
        compiler.compile(
            SHADER.replace("void main() {", "void main() { nothing = 1;").replace(
                "layout(set = 0, binding = 1, rgba32f) uniform writeonly image2D target;\n", ""
            ),
            name="wrong.comp",
            spirv=(1, 3),
        )


@pytest.mark.parametrize("spirv", [(1, 3), (1, 6)])
@pytest.mark.parametrize(
    ("declared", "access"), [("", "rw"), ("readonly ", "r"), ("coherent ", "rw")]
)
def test_reflection_reads_what_is_written(compiler, spirv, declared, access):
    source = SHADER.replace("buffer Data", f"{declared}buffer Data")
    source = source.replace("data[i + pc.offset] *= SCALE + pc.bias;", "")
    data, target = reflect(compiler.compile(source, name="test.comp", spirv=spirv)).bindings
    assert (data["access"], target["access"]) == (access, "w")


@pytest.mark.parametrize("spirv", [(1, 3), (1, 6)])
def test_reflection_reads_the_interface(compiler, spirv):
    reflection = reflect(compiler.compile(SHADER, name="test.comp", spirv=spirv))
    assert reflection.bindings == [
        {"name": "data", "binding": 0, "type": "storage_buffer", "access": "rw"},
        {"name": "target", "binding": 1, "type": "storage_image", "access": "w"},
    ]
    assert reflection.specialization_constants == [
        {"name": "local_size_x", "id": 0, "type": "uint"},
        {"name": "local_size_y", "id": 1, "type": "uint"},
        {"name": "local_size_z", "id": 2, "type": "uint"},
        {"name": "FLAG", "id": 3, "type": "bool"},
        {"name": "SCALE", "id": 4, "type": "float"},
    ]
    assert reflection.push_constants == [
        {"name": "count", "offset": 0, "type": "uint"},
        {"name": "offset", "offset": 4, "type": "int"},
        {"name": "bias", "offset": 8, "type": "float"},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("binding = 1", "binding = 2"), r"bindings must be 0, 1, 2"),
        (("set = 0, binding = 1", "set = 1, binding = 1"), "only descriptor set 0"),
        (("int offset", "vec2 offset2; int offset"), "32-bit scalars"),
        (
            ("buffer Data", "uniform Data2 { float other; }; layout(binding = 2) buffer Data"),
            "pwconv binds storage buffers",
        ),
    ],
)
def test_reflection_refuses_what_the_host_cannot_feed(compiler, change, message):
    source = SHADER.replace(*change)
    source = source.replace("SCALE +", "other + SCALE +") if "other" in source else source
    code = compiler.compile(source, name="test.comp", spirv=(1, 3))
    with pytest.raises(ReflectionError, match=message):
        reflect(code)


@pytest.mark.parametrize("code", [b"", b"abc", bytes(20), b"\x03\x02\x23\x07" + bytes(20)])
def test_reflection_refuses_what_is_not_spirv(code):
    with pytest.raises(ReflectionError, match="not SPIR-V"):
        reflect(code)


@pytest.mark.parametrize("damage", ["odd", "word"])
def test_invalid_spirv_is_found(compiler, damage):
    code = compiler.compile(SHADER, name="test.comp", spirv=(1, 3))
    if damage == "odd":
        broken = code[:-1]
    else:
        middle = len(code) // 8 * 4
        broken = code[:middle] + b"\xff\xff\x01\x00" + code[middle + 4 :]
    with pytest.raises(GlslError, match=r"test\.comp: the SPIR-V does not validate"):
        compiler.validate(broken, name="test.comp")


def test_what_the_build_asks_for():
    assert glslang.requirement() == f"slangpy=={glslang._VERSION}"
    for extra in (ROOT / "pyproject.toml").read_text().split("\n"):
        if "slangpy==" in extra:
            assert f'"slangpy=={glslang._VERSION}"' in extra


def test_a_system_without_wheels_is_told_what_to_do(monkeypatch):
    musl = Tag("cp312", "cp312", "musllinux_1_2_x86_64")
    monkeypatch.setattr(glslang, "sys_tags", lambda: [musl])
    with pytest.raises(GlslError, match=r"glibc 2\.34 or newer") as raised:
        glslang.requirement()
    assert "pip wheel --no-deps ." in str(raised.value)
    with pytest.raises(SystemExit, match="error: the shaders are compiled by the glslang in"):
        ShaderBuildHook("", {}, None, None, "", "wheel").dependencies()
    assert ShaderBuildHook("", {}, None, None, "", "sdist").dependencies() == []


def test_no_slangpy(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(GlslError, match="slangpy package, a build requirement"):
        Glslang()


def test_a_slangpy_without_the_library(monkeypatch):
    class Distribution:
        files = ()
        version = "9.9"

    monkeypatch.setattr(metadata, "distribution", lambda _: Distribution())
    with pytest.raises(GlslError, match=r"slangpy 9\.9 carries no slang-glslang"):
        Glslang()
