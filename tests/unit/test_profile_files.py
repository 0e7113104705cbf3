"""Files that an engine is timed on: written ahead where there is room, else each in its turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moeplan.api.profile_engine import _gguf_files
from moeplan.api.profile_request import ProfileRequest
from moeplan.measure.random_gguf import RandomFile, Shape, file_bytes, write_random_gguf

SHAPE = Shape(hidden=256, layers=1, heads=4, kv_heads=2, width=256, vocab=512)


@pytest.fixture(autouse=True)
def two_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [RandomFile("bare", SHAPE, "q8_0", 0.3), RandomFile("dense", SHAPE, "f16", 1.0)]
    monkeypatch.setattr("moeplan.measure.random_gguf.profile_files", lambda **_: files)


def test_with_room_all_are_there_before_they_are_asked_for(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as beside:
        files = list(_gguf_files(ProfileRequest(mode="quick"), tmp_path, 1e9, beside))
    assert [file.label for file in files] == ["dense", "bare"], "those with next to no weights come last"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.gguf", "dense.gguf"]
    assert [file.write().name for file in files] == ["dense.gguf", "bare.gguf"]


def test_without_room_each_is_written_in_its_turn(tmp_path: Path) -> None:
    one_bytes = file_bytes(SHAPE, "f16")
    with ThreadPoolExecutor(1) as beside:
        files = list(_gguf_files(ProfileRequest(mode="quick"), tmp_path, one_bytes, beside))
    assert list(tmp_path.iterdir()) == []
    for file in files:
        assert file.write().is_file()
        assert [path.stem for path in tmp_path.iterdir()] == [file.label], "only the latest is kept"


def test_the_size_is_known_before_the_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_random_gguf(path, SHAPE, "q8_0")
    # header, names and a vocabulary of 512 words: some 20 KB
    assert 0 < path.stat().st_size - file_bytes(SHAPE, "q8_0") < 40_000
