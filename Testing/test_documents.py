"""What the documents tell to type: every code block is run, or listed here with the reason why not."""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from TumorSynthLib import cli
from TumorSynthLib.phantom import chest
from TumorSynthLib.study.plan import read_plan
from TumorSynthLib.volume import read_image, read_mask, write_volume

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
}
#: Document and first line of a block to the test of it, or to the reason why none runs it.
BLOCKS = {
    ("README.md", "logic = slicer.util.getModuleLogic"): "test_the_module_in_python",
    (
        "README.md",
        "make demo",
    ): "test_targets; test_demo.py runs what the first one does, and you are reading the second",
    ("README.md", "pip install ."): "test_the_command_line, but for pip, which needs a network",
    ("README.md", "from TumorSynthLib.editor import"): "test_the_engine_in_python",
    (
        "Resources/Docs/batch.md",
        "tumorsynth batch plan.csv",
    ): "test_inline_commands; test_the_command_line runs a batch",
    ("Resources/Docs/batch.md", "id,patient,image,mask"): "test_tables_of_batches",
    ("Resources/Docs/batch.md", "defaults:"): "test_tables_of_batches",
    ("Resources/Docs/batch.md", "dask scheduler"): "test_dask_commands; test_study_cluster.py runs a cluster",
    (
        "Resources/Docs/batch.md",
        "from dask_jobqueue",
    ): "compiled in test_python_compiles; it needs a queue of a cluster",
}


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of a document."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", TEXTS[name], re.M | re.S)


def block(name: str, opening: str) -> str:
    (found,) = [text for _, text in blocks(name) if text.startswith(opening)]
    return found


def test_each_block_has_its_test_or_its_reason():
    listed = dict.fromkeys(BLOCKS)
    for name in TEXTS:
        for _, text in blocks(name):
            if text.startswith("python Training/"):
                continue  # hours each; test_training_commands.py gives each line to its script's parser
            keys = [key for key in BLOCKS if key[0] == name and text.startswith(key[1])]
            assert len(keys) == 1, f"{name}: a block without a test: {text}"
            listed.pop(keys[0])
    assert not listed
    for told in BLOCKS.values():
        for test in re.findall(r"\btest_\w+\b(?!\.py)", told):
            assert test in globals(), test
        for file in re.findall(r"test_\w+\.py", told):
            assert (ROOT / "Testing" / file).is_file(), file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two generated chest CTs, named and placed as the documents have them."""
    for seed, names in enumerate((("image", "mask"), ("other", "other_mask"))):
        volume, tumour = chest(seed, radius=8.0)
        x, y, z = volume.origin
        volume = replace(volume, origin=(x, y, z + 310.0))
        write_volume(volume, tmp_path / f"{names[0]}.nii.gz")
        write_volume(volume.with_array(tumour.astype(np.uint8)), tmp_path / f"{names[1]}.nii.gz")
    (tmp_path / "edits.csv").write_text("image,mask,edit\nimage.nii.gz,mask.nii.gz,extract\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(tmp_path / "models"))
    return tmp_path


def test_the_command_line(folder, capsys):
    lines = block("README.md", "pip install .").splitlines()[1:]
    assert len(lines) == 11
    before = read_image("image.nii.gz").array
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "tumorsynth" and cli.main(words) == 0, (line, capsys.readouterr().err)
        if "--out" in words and words[0] not in ("series", "batch", "shape"):
            assert (read_image(words[words.index("--out") + 1]).array != before).any(), line
    written = {path.name for path in folder.iterdir()}
    assert {
        "removed.nii.gz",
        "moved_mask.nii.gz",
        "larger.nii.gz",
        "new.json",
        "growth",
        "shape.nii.gz",
    } <= written
    assert "1 of 1 jobs are done" in capsys.readouterr().out


def test_the_engine_in_python(folder):
    exec(block("README.md", "from TumorSynthLib.editor"), {})  # noqa: S102  our own text
    image = read_image("image.nii.gz")
    changed = read_image("edited.nii.gz").array != image.array
    mask = read_mask("mask.nii.gz", image)
    assert changed[mask].mean() > 0.5 and not changed[~mask].any()


def test_the_module_in_python():
    import slicer_runtime

    slicer_runtime.start()
    import slicer
    import slicer_case

    with slicer_runtime.freshScene(), pytest.MonkeyPatch.context() as patch:
        logic = slicer_runtime.moduleLogic()
        patch.setattr(slicer.util, "getModuleLogic", {"TumorSynthRadiomics": logic}.get, raising=False)
        volume, tumour = chest(radius=8.0)
        volumeNode = slicer.util.addVolumeFromArray(volume.array)
        volumeNode.SetSpacing(volume.spacing)
        segmentationNode = slicer_case.segmentation(volumeNode, tumour)
        before = slicer.util.arrayFromVolume(volumeNode).copy()
        names = {"slicer": slicer, "volumeNode": volumeNode, "segmentationNode": segmentationNode}
        try:
            exec(block("README.md", "logic ="), names)  # noqa: S102  our own text
        finally:
            logic.close()
        assert names["outcome"].volumeNode is volumeNode and logic.canRedo()
        assert np.array_equal(slicer.util.arrayFromVolume(volumeNode), before)


@pytest.mark.parametrize(
    ("opening", "suffix", "jobs"), [("id,patient,", "csv", 12), ("defaults:", "yaml", 6)]
)
def test_tables_of_batches(tmp_path, opening, suffix, jobs):
    pytest.importorskip("yaml")
    table = tmp_path / f"plan.{suffix}"
    table.write_text(block("Resources/Docs/batch.md", opening))
    read = read_plan(table, "lung-nodule-ct")
    assert len(read) == jobs and {job.id for job in read} == {"case1", "case2"}


def test_dask_commands():
    cli_of = {
        "scheduler": pytest.importorskip("distributed.cli.dask_scheduler").main,
        "worker": pytest.importorskip("distributed.cli.dask_worker").main,
    }
    lines = [
        line.split("#")[0].strip("& ") for line in block("Resources/Docs/batch.md", "dask ").splitlines()
    ]
    for line in lines[:2]:
        _, kind, *words = shlex.split(line)
        cli_of[kind].make_context(kind, words, resilient_parsing=False)


@pytest.mark.parametrize("name", TEXTS)
def test_python_compiles(name):
    for language, text in blocks(name):
        if language == "python":
            compile(text, name, "exec")


@pytest.mark.parametrize("name", TEXTS)
def test_inline_commands(name, capsys):
    """Commands in the text and in blocks are taken by the parser; words in capitals stand for what a user gives."""
    found = re.findall(r"`(tumorsynth [^`\n]+)`", TEXTS[name])
    found += [
        line for _, text in blocks(name) for line in text.splitlines() if line.startswith("tumorsynth ")
    ]
    for line in found:
        words = shlex.split(line)[1:]
        if "…" in line or words in ([], ["batch"]) or words[0].isupper():
            continue
        if words[-1] == "--help":
            words = ["--help"]
        try:
            cli.parser().parse_args(words)
        except SystemExit as end:
            assert end.code == 0, f"{line}: {capsys.readouterr().err}"


@pytest.mark.parametrize("name", TEXTS)
def test_targets(name):
    """Targets of make and scripts of the tests that the documents name."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    said = re.findall(r"`make (\w+)", TEXTS[name])
    said += [word for _, text in blocks(name) for word in re.findall(r"^make (\w+)", text, re.M)]
    for target in said:
        assert re.search(rf"^{target}:", makefile, re.M), target
    for script in re.findall(r"\bTesting/\w+\.py", TEXTS[name]):
        assert (ROOT / script).is_file(), script
