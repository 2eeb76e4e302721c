"""Recipes: every one parses, all its keys are options of their script, and the command line wins."""

import re
import shlex
import sys
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

pytest.importorskip("yaml")
common = pytest.importorskip("common")
prepare = pytest.importorskip("prepare")
train_texture = pytest.importorskip("train_texture")

RECIPES = sorted((TRAINING / "recipes").glob("*.yaml"))
PLACES = ["--data", "x", "--out", "y"]


def parsed(script: str, *arguments):
    """Options as the script sees them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        if script == "prepare":
            return common.parse(prepare.options(), "prepare")
        if script == "train_codec":
            pytest.importorskip("monai", reason="train_codec.py takes its discriminator from MONAI")
        return __import__(script).parse()


def test_there_is_a_recipe_for_each_data_set():
    names = {path.stem for path in RECIPES}
    assert names >= {"lidc", "sts", "kits23", "nsclc", "brats2021", "breast", "nnunet"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_is_an_option_of_its_script(path):
    recipe = common.read_recipe(path)
    assert {"prepare", "train_texture"} <= set(recipe) <= {"prepare", "train_codec", "train_texture"}
    for script, keys in recipe.items():
        options = vars(parsed(script, "--recipe", path, *PLACES))
        for key, value in keys.items():
            assert key.replace("-", "_") in options
            if key != "regions" and not isinstance(value, list):
                assert options[key.replace("-", "_")] == value
    parser = prepare.options()
    plan = prepare.plan_of(common.parse(parser, "prepare", ["--recipe", str(path), *PLACES]), parser)
    assert plan.spacing and plan.procedural == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_commands_that_its_scripts_take(path):
    text = path.read_text()
    head = text[: text.index("prepare:")]
    commands = re.sub(r"\\\n#\s+", "", head)
    for script in ("prepare", "train_codec", "train_texture", "export_bundle", "evaluate"):
        assert f"Training/{script}.py" in commands, script
    for word in ("Hardware:", "Time:", "Result:"):
        assert f"\n# {word}" in head
    own = f"Training/recipes/{path.name}"
    for line in commands.splitlines():
        found = re.search(r"Training/(prepare|train_texture|train_codec)\.py (.*?)(\s# .*)?$", line)
        if found:
            arguments = shlex.split(found[2])
            assert own in arguments, line
            parsed(found[1], *(str(path) if a == own else a for a in arguments))
        found = re.search(r"Training/export_bundle\.py (.*)$", line)
        if found:
            __import__("export_bundle").parse(shlex.split(found[1]))


def regions_of(path: Path) -> list[str]:
    parser = prepare.options()
    return prepare.plan_of(common.parse(parser, "prepare", ["--recipe", str(path), *PLACES]), parser).names


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_region_is_evaluated(path):
    commands = re.findall(r"Training/evaluate\.py texture (.*)", path.read_text())
    named = [re.search(r"--region (\S+)", line) for line in commands]
    names = regions_of(path)
    assert [m and m[1] for m in named] == (names if len(names) > 1 else [None])


def test_command_line_wins(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "prepare: {layout: sts, bin-width: 10, held_out: true, pairs: false, regions: [a=1, b=2], spacing: [1, 1, 2]}\n"
        "train_texture: {lr: 1e-3, widths: [8, 16, 16]}"
    )
    plain = parsed("prepare", "--recipe", path, *PLACES)
    assert (plain.layout, plain.bin_width, plain.held_out, plain.pairs) == ("sts", 10.0, True, False)
    assert plain.regions == [("a", (1,)), ("b", (2,))] and plain.spacing == [1.0, 1.0, 2.0]
    other = parsed("prepare", "--recipe", path, "lidc", "--bin-width", 5, "--regions", "c=3", *PLACES)
    assert (other.layout, other.bin_width, other.regions) == ("lidc", 5.0, [("c", (3,))])
    texture = parsed("train_texture", "--recipe", path, *PLACES, "--lr", 2e-3)
    assert texture.lr == 2e-3 and texture.widths == [8, 16, 16]


@pytest.mark.parametrize(
    "text, message",
    [
        ("prepare: {bin-widht: 10}", "bin-widht"),
        ("prepare: {layout: kits24}", "kits24"),
        ("prepare: {help: true}", "help"),
        ("prepare: {spacing: true}", "spacing"),
        ("prepare: {jobs: many}", "many"),
        ("prepare: [1, 2]", "not a recipe"),
        ("prepare: {a: [", "can't read"),
    ],
)
def test_wrong_recipes_are_refused_by_name(text, message, tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        parsed("prepare", "--recipe", path, *PLACES)
    assert message in capsys.readouterr().err + str(stop.value)


def test_a_missing_recipe_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("prepare", "--recipe", "nowhere.yaml", *PLACES)
    assert "nowhere.yaml" in str(stop.value)
