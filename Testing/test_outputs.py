"""Files of a result: all of them are written, or none."""

import os

import pytest

from TumorSynthLib import outputs
from TumorSynthLib.errors import InputError
from TumorSynthLib.outputs import Staging


def write(folder, *names):
    with Staging() as staging:
        for name in names:
            staging.file(folder / name).write_text("new")


def contents(folder):
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("link", [True, False])
def test_a_failing_rename_leaves_the_old_files(tmp_path, monkeypatch, link):
    (tmp_path / "old").write_text("old")
    replace = os.replace

    def fails(source, target):
        if os.path.basename(target) == "last":
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(outputs.os, "replace", fails)
    if not link:
        monkeypatch.setattr(outputs.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    with pytest.raises(InputError, match="last"):
        write(tmp_path, "old", "fresh", "last")
    assert contents(tmp_path) == {"old": "old"} and os.listdir(tmp_path) == ["old"]
    monkeypatch.setattr(outputs.os, "replace", replace)
    write(tmp_path, "old", "fresh", "last")
    assert contents(tmp_path) == {"old": "new", "fresh": "new", "last": "new"}


def test_a_folder_in_the_way_is_found_before_anything_is_replaced(tmp_path):
    (tmp_path / "image").write_text("old")
    (tmp_path / "image.json").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path, "image", "image.json")
    assert contents(tmp_path) == {"image": "old"}
