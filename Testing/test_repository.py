"""The repository stays small enough to be cloned by Slicer's Extensions Index, which refuses 100 MB."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 96 * 2**20  # bytes of history and work tree


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_full_clone_is_small(tmp_path):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or a copy without history")
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("a shallow clone, whose history isn't there")
    head = git("rev-parse", "HEAD").strip()
    empty = tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "--bare", str(empty)], check=True)
    subprocess.run(["git", "-C", str(empty), "fetch", "-q", f"file://{ROOT}", head], check=True)
    history = sum(p.stat().st_size for p in empty.rglob("*") if p.is_file())
    tree = sum(int(line.split()[3]) for line in git("ls-tree", "-r", "-l", "HEAD").splitlines())
    assert history + tree < LIMIT, (
        f"{history / 2**20:.1f} MiB of history and {tree / 2**20:.1f} of files: no weights into git"
    )
    assert history > 2**20 and tree > 2**20  # they were found
