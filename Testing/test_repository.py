"""The repository stays small enough for Slicer's Extensions Index, which refuses 100 MB; its quick tests cover every package."""

import json
import re
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


def test_the_quick_tests_cover_every_package():
    """Those that `make quick` lists are there, and import each package of the engine, the module's and the training's code."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    names = re.search(r"^QUICK := (.*)$", makefile, re.M)[1].split()
    texts = [
        (ROOT / "Testing" / f"test_{n.partition('.py')[0]}.py").read_text(encoding="utf-8") for n in names
    ]
    text = "\n".join(texts)
    packages = [p.relative_to(ROOT) for p in (ROOT / "TumorSynthLib").rglob("__init__.py")]
    missing = [
        name
        for name in (".".join(p.parent.parts) for p in packages)
        if not re.search(rf"(from|import) {re.escape(name)}\b", text)
    ]
    assert not missing and "from TumorSynthSlicer" in text and "TRAINING" in text and len(packages) > 7


def test_errors_of_type_only_get_fewer():
    """A new file has none, an old one no more than it had; and the list loses what is gone."""
    from support.type_errors import ALLOWED, compared

    old = {"a.py": 2, "b.py": 1, "c.py": 1}
    worse, lower = compared({"a.py": ["1"], "b.py": ["1", "2"], "new.py": ["1"]}, old)
    assert [text.split(":")[0] for text in worse] == ["b.py", "new.py"] and lower == {"a.py": 1, "b.py": 1}
    listed = json.loads(ALLOWED.read_text(encoding="utf-8"))
    assert all((ROOT / name).is_file() and count > 0 for name, count in listed.items())
