"""variants.toml, includes, and what compilation leaves behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import compile_shaders
from compile_shaders import ShaderError, compile_all, load_variants
from glslang import Glslang, GlslError
from support import inside

SHADERS = Path(__file__).parents[2] / "shaders"

TOML = """
[scale]
source = "scale.comp"
spirv = "1.3"
limits = { maxComputeSharedMemorySize = 16384 }
[scale.axes.dtype]
fp32 = { defines = { TYPE = "float" } }
fp16 = { defines = { TYPE = "float", HALF = 1 }, features = ["shaderFloat16"] }
[scale.axes.by]
two = { defines = { FACTOR = 2 } }
three = { defines = { FACTOR = 3 } }
"""
COMP = """#version 450
#include "outer.glslh"
void main() {
    data[gl_GlobalInvocationID.x] = scaled(data[gl_GlobalInvocationID.x]);
}
"""
OUTER = """// One line before.
#include "inner.glslh"
layout(set = 0, binding = 0) buffer Data { TYPE data[]; };
TYPE scaled(TYPE x) { return inner(x) * FACTOR; }
"""
INNER = """// The innermost.
float inner(float x) { return x + 1.0; }
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    folder = tmp_path / "shaders"
    (folder / "include").mkdir(parents=True)
    (folder / "variants.toml").write_text(TOML)
    (folder / "scale.comp").write_text(COMP)
    (folder / "include/outer.glslh").write_text(OUTER)
    (folder / "include/inner.glslh").write_text(INNER)
    return folder


def test_variants_are_the_product_of_the_axes(tree):
    found = {v.name: v for v in load_variants(tree / "variants.toml")}
    assert list(found) == [
        "scale_fp32_two",
        "scale_fp32_three",
        "scale_fp16_two",
        "scale_fp16_three",
    ]
    variant = found["scale_fp16_three"]
    assert variant.axes == {"dtype": "fp16", "by": "three"}
    assert variant.defines == {"TYPE": "float", "HALF": 1, "FACTOR": 3}
    assert variant.features == ["shaderFloat16"]
    assert variant.limits == {"maxComputeSharedMemorySize": 16384}


def test_the_manifest_tells_what_each_variant_is(tree, tmp_path):
    files = compile_all(tree, tmp_path / "out")
    assert files[-1].name == "manifest.json"
    document = json.loads(files[-1].read_text())
    entry = document["variants"]["scale_fp16_two"]
    assert (tmp_path / "out" / entry["file"]).read_bytes()[:4] == b"\x03\x02\x23\x07"
    assert entry["features"] == ["shaderFloat16"]
    assert entry["limits"] == {"maxComputeSharedMemorySize": 16384}
    (binding,) = entry["bindings"]
    assert binding == {"name": "data", "binding": 0, "type": "storage_buffer", "access": "rw"}
    digest = hashlib.sha256(files[-1].read_bytes()).hexdigest()
    assert (files[-2].name, files[-2].read_text()) == ("manifest.sha256", digest)
    assert {f.name for f in files[:-2]} == {e["file"] for e in document["variants"].values()}


SHARED = """#version 450
shared {declared};
layout(set = 0, binding = 0) buffer Data {{ float data[]; }};
void main() {{
    {name}{index} = {type}(data[gl_LocalInvocationIndex]);
    barrier();
    data[gl_LocalInvocationIndex] = float({name}{index}{component});
}}
"""


@pytest.mark.parametrize(
    ("declared", "type", "index", "component", "size"),
    [
        ("vec4 a[3 * 5]", "vec4", "[gl_LocalInvocationIndex]", ".x", 240),
        ("uvec2 a[2][7]", "uvec2", "[1][gl_LocalInvocationIndex]", ".y", 112),
        ("float a", "float", "", "", 4),
    ],
)
def test_the_manifest_tells_the_shared_memory(
    tree, tmp_path, declared, type, index, component, size
):
    source = SHARED.format(declared=declared, name="a", type=type, index=index, component=component)
    (tree / "scale.comp").write_text(source)
    document = json.loads(compile_all(tree, tmp_path / "out")[-1].read_text())
    assert {v["shared_memory"] for v in document["variants"].values()} == {size}


def test_the_same_tree_gives_the_same_bytes(tree, tmp_path):
    moved = shutil.copytree(tree, tmp_path / "elsewhere" / "shaders")
    first = compile_all(tree, tmp_path / "a")
    second = compile_all(moved, tmp_path / "b")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_only_what_changed_is_compiled_again(tree, tmp_path, monkeypatch):
    compiled: list[str] = []
    real = Glslang.compile

    def compile_(self, source, *, name, spirv):
        compiled.append(source)
        return real(self, source, name=name, spirv=spirv)

    monkeypatch.setattr(Glslang, "compile", compile_)
    output = tmp_path / "out"
    compile_all(tree, output)
    assert len(compiled) == 4
    compile_all(tree, output)
    assert len(compiled) == 4
    (tree / "variants.toml").write_text(TOML.replace("FACTOR = 3", "FACTOR = 4"))
    compile_all(tree, output)
    assert len(compiled) == 6
    (tree / "include/inner.glslh").write_text(INNER.replace("1.0", "2.0"))
    compile_all(tree, output)
    assert len(compiled) == 10
    (output / "scale_fp32_two.spv").unlink()
    compile_all(tree, output)
    assert len(compiled) == 11
    (output / "manifest.json").write_text("{")
    compile_all(tree, output)
    assert len(compiled) == 15


def test_variants_that_are_gone_leave_no_file(tree, tmp_path):
    compile_all(tree, tmp_path / "out")
    (tree / "variants.toml").write_text(TOML.replace("three", "four"))
    names = {f.name for f in compile_all(tree, tmp_path / "out")}
    assert {f.name for f in (tmp_path / "out").iterdir()} == names
    assert "scale_fp32_three.spv" not in names


@pytest.mark.parametrize(
    ("file", "change", "where"),
    [
        ("scale.comp", ("scaled(data", "scalde(data"), r"scale\.comp:4: 'scalde'"),
        ("include/outer.glslh", ("inner(x)", "iner(x)"), r"include/outer\.glslh:4: 'iner'"),
        ("include/inner.glslh", ("x + 1.0", "y + 1.0"), r"include/inner\.glslh:2: 'y'"),
    ],
)
def test_a_glsl_error_names_file_and_line(tree, tmp_path, file, change, where):
    (tree / file).write_text((tree / file).read_text().replace(*change))
    with pytest.raises(GlslError, match=where):
        compile_all(tree, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('spirv = "1.3"', 'spriv = "1.3"'), r"variants\.toml: \[scale\]: unknown key 'spriv'"),
        (("[scale]\nsource", "[axis]\n[scale]\nsource"), r"\[axis\]: axes is missing"),
        (('spirv = "1.3"', 'spirv = "2.0"'), r"\[scale\]: spirv is '2\.0'"),
        (('spirv = "1.3"', "spirv = 1.3"), r"spirv must be a str, is 1\.3"),
        (("FACTOR = 2 } }", "FACTOR = 2 }, define = {} }"), r"by\.two: unknown key 'define'"),
        (('["shaderFloat16"]', '"shaderFloat16"'), r"dtype\.fp16: features must be a list"),
        (
            ("[scale.axes.by]\ntwo = {", "[scale.axes]\nby = 2\n[scale.axes.more]\ntwo = {"),
            r"axis by must be a list .*, or a table of choices; it is 2",
        ),
        (("three = {", "three = 3\nfour = {"), r"by\.three: must be a table, is 3"),
        (('source = "scale.comp"', 'source = "sacle.comp"'), "no such source: sacle.comp"),
        (("[scale]", "[scale"), r"variants\.toml: .*line 2"),
    ],
)
def test_mistakes_in_variants_toml(tree, tmp_path, change, message):
    (tree / "variants.toml").write_text(TOML.replace(*change))
    with pytest.raises(ShaderError, match=message):
        compile_all(tree, tmp_path / "out")


SHARED_CHOICES = """
[axes.dtype]
fp32 = { defines = { TYPE = "float" } }
fp16 = { defines = { TYPE = "float", HALF = 1 }, features = ["shaderFloat16"] }
[axes.other]
single = { defines = { TYPE = "float" } }
[tiles.factor]
two = { FACTOR = 2 }
three = { FACTOR = 3 }
four = { FACTOR = 4 }
[scale]
axes = { dtype = ["fp16", "fp32"], by = { factor = ["four", "two"] } }
[scale_all]
source = "scale.comp"
spirv = "1.6"
axes = { dtype = "other", by = "factor" }
"""


def test_families_name_choices_that_they_share(tree):
    (tree / "variants.toml").write_text(SHARED_CHOICES)
    found = {v.name: v for v in load_variants(tree / "variants.toml")}
    assert list(found) == [
        *("scale_fp16_four", "scale_fp16_two", "scale_fp32_four", "scale_fp32_two"),
        *("scale_all_single_two", "scale_all_single_three", "scale_all_single_four"),
    ]
    some = found["scale_fp16_four"]
    assert (some.source, some.spirv) == ("scale.comp", "1.3")
    assert some.axes == {"dtype": "fp16", "by": "four"}
    assert some.defines == {"TYPE": "float", "HALF": 1, "FACTOR": 4}
    assert some.features == ["shaderFloat16"]
    every = found["scale_all_single_three"]
    assert every.axes == {"dtype": "single", "by": "three"}
    assert every.defines == {"TYPE": "float", "FACTOR": 3}
    assert every.spirv == "1.6"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('["fp16", "fp32"]', '["fp61"]'),
            r"variants\.toml: \[scale\]: dtype: dtype has no choice 'fp61'; it has fp32, fp16",
        ),
        (
            ('["four", "two"]', '["five"]'),
            r"\[scale\]: by: factor has no choice 'five'; it has two, three, four",
        ),
        (
            ('by = "factor"', 'by = "fcator"'),
            r"\[scale_all\]: no \[axes\.fcator\] or \[tiles\.fcator\]; there are \['dtype', ",
        ),
        (("by = { factor =", "by = { fcator ="), r"no \[axes\.fcator\] or \[tiles\.fcator\]"),
        (("dtype = [", "type = ["), r"no \[axes\.type\] or \[tiles\.type\]"),
        (('["four", "two"]', "[]"), r"\[scale\]: by must have at least one choice"),
        (("single = {", "[axes.none]\n[axes.more]\nsingle = {"), r"other\] must have at least one"),
        (("single = { defines", "single = { define"), r"other\]\.single: unknown key 'define'"),
        (("two = { FACTOR = 2 }", "two = 2"), r"\[tiles\.factor\]: two: must be a table, is 2"),
        (("[axes.other]", "[tiles.dtype]"), r"\[tiles\.dtype\]: \[axes\.dtype\] has the same name"),
        (("[axes.dtype]", "[axes]\ndtype = 1\n[x]"), r"\[axes\.dtype\]: must be a table, is 1"),
        (("[axes.dtype]", "[axes.dtype.x]"), r"\[axes\.dtype\]\.x: unknown key 'fp32'"),
    ],
)
def test_mistakes_in_what_families_share(tree, change, message):
    (tree / "variants.toml").write_text(SHARED_CHOICES.replace(*change))
    with pytest.raises(ShaderError, match=message):
        load_variants(tree / "variants.toml")


def test_two_variants_of_one_name(tree):
    """Names are joined by underscores, so two tables can come to one name."""
    plain = 'source = "scale.comp"\nspirv = "1.3"\n'
    text = f"[a]\n{plain}[a.axes.x]\nb_c = {{}}\n[a_b]\n{plain}[a_b.axes.x]\nc = {{}}\n"
    (tree / "variants.toml").write_text(text)
    with pytest.raises(ShaderError, match="two variants are called a_b_c"):
        load_variants(tree / "variants.toml")


def test_a_missing_include(tree, tmp_path):
    (tree / "include/outer.glslh").write_text(OUTER.replace("inner.glslh", "iner.glslh"))
    with pytest.raises(ShaderError, match=r"include/outer\.glslh:2: no such include: iner\.glslh"):
        compile_all(tree, tmp_path / "out")


def test_an_include_of_itself(tree, tmp_path):
    (tree / "include/inner.glslh").write_text('#include "outer.glslh"\n')
    with pytest.raises(ShaderError, match=r"outer\.glslh includes itself, through"):
        compile_all(tree, tmp_path / "out")


def test_no_version_line(tree, tmp_path):
    (tree / "scale.comp").write_text(COMP.replace("#version 450", ""))
    with pytest.raises(ShaderError, match=r"scale\.comp: no #version line"):
        compile_all(tree, tmp_path / "out")


@pytest.mark.exhaustive
def test_the_package_holds_what_the_tree_gives(tmp_path):
    """Compiled afresh, byte for byte what is installed; so the build is reproducible."""
    fresh = compile_all(SHADERS, tmp_path / "out")
    installed = inside.SHADERS
    assert {f.name for f in fresh} == {f.name for f in installed.iterdir()}
    for file in fresh:
        assert file.read_bytes() == (installed / file.name).read_bytes(), file.name


def test_the_package_recognizes_its_sources():
    document = json.loads((inside.SHADERS / "manifest.json").read_text())
    assert document["sources"] == compile_shaders.source_digest(SHADERS)
