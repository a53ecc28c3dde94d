"""The text models: fetched once, whole and right, or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

import text_models


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(text_models.platformdirs, "user_cache_path", lambda _: tmp_path)


def download(command, **_):
    """Do what pip does, with a small wheel."""
    folder = Path(command[command.index("--dest") + 1])
    with zipfile.ZipFile(folder / "small.whl", "w") as wheel:
        for name in (text_models.DETECTOR, text_models.READER):
            member = zipfile.ZipInfo(f"rapidocr_onnxruntime/models/{name}")
            wheel.writestr(member, name)
    return subprocess.CompletedProcess(command, 0, "", "")


def test_it_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", download)
    (tmp_path / "other").mkdir()
    download(["--dest", str(tmp_path / "other")])
    digest = hashlib.sha256((tmp_path / "other" / "small.whl").read_bytes()).hexdigest()
    monkeypatch.setattr(text_models, "_SHA256", digest)
    path = text_models.fetch(text_models.DETECTOR)
    assert path.read_text() == text_models.DETECTOR
    assert {each.name for each in path.parent.iterdir()} == {
        text_models.DETECTOR,
        text_models.READER,
    }
    monkeypatch.setattr(subprocess, "run", None)
    assert text_models.fetch(text_models.READER).read_text() == text_models.READER


def test_another_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ValueError, match=r"small.whl has sha256 [0-9a-f]{64}; it must be 971d"):
        text_models.fetch(text_models.DETECTOR)
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_without_an_index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(text_models.NotFetchedError, match="pip could not download rapidocr-onnx"):
        text_models.fetch(text_models.DETECTOR)
