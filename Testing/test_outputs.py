"""Files of a result: all of them are written, or none."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from TumorSynthLib import outputs
from TumorSynthLib.errors import InputError
from TumorSynthLib.outputs import Staging, check_apart

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.mark.skipif(os.name == "nt", reason="permissions differ")
def test_permissions_and_links_are_kept(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    os.chmod(tmp_path / "real" / "a", 0o640)
    (tmp_path / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "b").symlink_to("real/b")  # leads to nothing yet
    write(tmp_path, "a", "b")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()
    assert contents(tmp_path / "real") == {"a": "new", "b": "new"}
    assert (tmp_path / "real" / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name == "nt", reason="no such files")
@pytest.mark.parametrize("kind", ["protected", "fifo", "device", "folder"])
def test_what_must_not_be_replaced_is_named_before_any_work(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "protected":
        path.write_text("old")
        path.chmod(0o444)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    with pytest.raises(InputError, match="can't write"):
        check_apart([path], [])
    with pytest.raises(InputError, match="can't write"):
        write(tmp_path, "x")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["x" * 260, "ä" * 130, "/".join(["d" * 200] * 25)])
def test_names_that_are_too_long_are_named_before_any_work(tmp_path, name):
    with pytest.raises(InputError, match="shorten it"):
        check_apart([tmp_path / name], [])


def test_the_longest_name_can_be_written_and_replaced(tmp_path):
    longest = "x" * os.pathconf(tmp_path, "PC_NAME_MAX")
    for _ in range(2):
        check_apart([tmp_path / longest], [])
        write(tmp_path, longest)
    assert contents(tmp_path) == {longest: "new"}


KILLED = """
import os, sys
from pathlib import Path
from TumorSynthLib import outputs
folder, when = Path(sys.argv[1]), int(sys.argv[2])
replace, count = os.replace, [0]
def killed(source, target):
    if os.path.basename(str(target)) in ("image", "record", "mask"):
        if count[0] == when: os.kill(os.getpid(), 9)
        count[0] += 1
    replace(source, target)
outputs.os.replace = killed
with outputs.Staging() as staging:
    for name in ("image", "record", "other/mask"):
        staging.file(folder / name).write_text("new")
    if when < 0: os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
@pytest.mark.parametrize("when", [-1, 0, 1, 2])
def test_a_killed_process_leaves_the_old_or_the_new_state(tmp_path, when):
    """The next command in that folder tidies, and finishes the renames that had begun."""
    for name in ("image", "record"):
        (tmp_path / name).write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(when)], cwd=ROOT)
    assert done.returncode == -9 and list(tmp_path.glob(".tumorsynth-*"))
    write(tmp_path, "next")
    state = "new" if when > 0 else "old"
    assert contents(tmp_path) == {"image": state, "record": state, "next": "new"}
    assert (tmp_path / "other" / "mask").exists() == (state == "new")
    assert not list(tmp_path.glob(".tumorsynth-*"))


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_renames_are_not_finished_over_what_was_changed_since(tmp_path):
    for name in ("image", "record"):
        (tmp_path / name).write_text("old")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "1"], cwd=ROOT)
    (tmp_path / "record").write_text("by somebody else")
    write(tmp_path, "next")
    assert (tmp_path / "record").read_text() == "by somebody else"
    assert not list(tmp_path.glob(".tumorsynth-*"))


@pytest.mark.skipif(os.name == "nt", reason="locks differ")
def test_hidden_folders_of_living_processes_and_other_machines_stay(tmp_path):
    foreign = tmp_path / ".tumorsynth-00000000-abc"
    foreign.mkdir()
    with Staging() as outer:
        kept = outer.file(tmp_path / "a")
        kept.write_text("new")
        write(tmp_path, "b")
        assert kept.exists()
    assert contents(tmp_path) == {"a": "new", "b": "new"} and foreign.exists()
    os.utime(foreign, (0, 0))
    write(tmp_path, "b")
    assert not foreign.exists()


@pytest.mark.parametrize("when", ["written", "flushed"])
def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(tmp_path, monkeypatch, when):
    (tmp_path / "a").write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(InputError, match="No space left on device.*nothing was written") as caught,
        Staging() as staging,
    ):
        staging.file(tmp_path / "a").write_text("new")
        if when == "written":
            full()
        monkeypatch.setattr(outputs.os, "fsync", full)
    assert (
        "\n" not in str(caught.value) and contents(tmp_path) == {"a": "old"} and os.listdir(tmp_path) == ["a"]
    )
