"""What the training's README, docstrings and recipes tell to type: scripts and options that there are."""

import argparse
import ast
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

for module in ("common", "monai", "skimage", "yaml"):
    pytest.importorskip(module)

PIPELINE = (
    "prepare",
    "train_codec",
    "train_texture",
    "export_bundle",
    "evaluate",
    "train_baseline",
    "train_shape",
)
PLACES = ("one CPU", "one GPU", "one node", "several nodes")


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


TEXTS = {"README.md": (TRAINING / "README.md").read_text(encoding="utf-8")}
TEXTS |= {path.name: docstring(path) for path in sorted(TRAINING.glob("*.py"))}
TEXTS |= {
    path.name: path.read_text(encoding="utf-8") for path in sorted((TRAINING / "recipes").glob("*.yaml"))
}


class Asked(BaseException):
    """Ends a script where it would parse its command line."""


@cache
def parser_of(script: str, task: str = "") -> argparse.ArgumentParser:
    """The parser that a script makes."""

    def ask(self, *_):
        raise Asked(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", ask)
        patch.setattr(sys, "argv", [f"{script}.py", *filter(None, [task])])
        with pytest.raises(Asked) as asked:
            runpy.run_path(str(TRAINING / f"{script}.py"), run_name="__main__")
    return asked.value.args[0]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(script, words) of each command line; what stands in brackets may be given."""
    joined = re.sub(r"\\\n#?\s*", "", text)
    found = re.findall(r"(?:python|torchrun [^\n`]*?) +Training/(\w+)\.py([^\n`&]*)", joined)
    return [
        (script, shlex.split(words.replace("[", "").replace("]", ""), comments=True))
        for script, words in found
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_are_taken_by_their_scripts(name, capsys):
    for script, words in commands(TEXTS[name]):
        task = words[0] if script == "evaluate" and words[0] in ("shape", "place") else ""
        try:
            parser_of(script, task).parse_args(words[1:] if task else words)
        except SystemExit:
            pytest.fail(f"{script}.py {' '.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")


@pytest.mark.parametrize("name", TEXTS)
def test_options_that_are_named_exist(name):
    """Whole names: an abbreviation that argparse takes today is ambiguous tomorrow."""
    for script, words in re.findall(r"`(?:python Training/)?(\w+)\.py\s([^`]*)`", TEXTS[name]):
        task = next((t for t in ("shape", "place") if words.startswith(t)), "")
        known = parser_of(script, task)._option_string_actions
        for option in re.findall(r"(?<!\S)--[\w-]+", words):
            assert option in known, f"{script}.py {option}"


def test_there_are_commands_to_check():
    assert len(commands(TEXTS["README.md"])) > 20
    assert commands(
        "one GPU  torchrun --n 2 Training/a.py --b C \\\n   [--d] # e\n`python Training/f.py g`"
    ) == [
        ("a", ["--b", "C", "--d"]),
        ("f", ["g"]),
    ]


@pytest.mark.parametrize("script", PIPELINE)
def test_docstrings_open_with_commands_for_each_size_of_machine(script):
    opening = TEXTS[f"{script}.py"].split("\n\n")[1]
    assert f"Training/{script}.py" in opening and [place for place in PLACES if place not in opening] == []
