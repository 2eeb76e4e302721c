"""The arrows between the parts, and the rules that keep them safe and quick to start."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = sorted((ROOT / "TumorSynthLib").rglob("*.py"))
TRAINING = sorted((ROOT / "Training").rglob("*.py"))
TESTS = sorted((ROOT / "Testing").rglob("*.py"))

REQUIRED = {"numpy", "scipy", "SimpleITK", "pydicom", "torch", "safetensors"}
OPTIONAL = {"monai", "einops", "certifi", "pywt", "distributed", "yaml"}  # used where they are installed
HEAVY = ("torch", "monai", "scipy", "SimpleITK", "pydicom", "einops", "safetensors")
SLICER = {"slicer", "qt", "vtk", "ctk", "mrml", "PythonQt", "vtkmodules"}

MAX_FILE, MAX_FUNCTION = 600, 90


def name_of(path):
    return str(path.relative_to(ROOT))


def imported(tree, path):
    """(top-level package, whole name, line) of each import in a file, relative ones resolved."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield whole.split(".")[0], whole, node.lineno


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_is_something_to_check():
    assert len(ENGINE) > 10 and len(TESTS) > 3


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_engine_knows_neither_slicer_nor_training_nor_tests(path):
    allowed = REQUIRED | OPTIONAL | {"TumorSynthLib"} | set(sys.stdlib_module_names)
    wrong = [
        f"line {line}: {whole}" for top, whole, line in imported(parse(path), path) if top not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_training_knows_neither_slicer_nor_tests(path):
    siblings = {p.stem for p in TESTS}
    wrong = [
        f"line {line}: {whole}"
        for top, whole, line in imported(parse(path), path)
        if top in SLICER | siblings | {"Testing", "TumorSynthRadiomics"}
    ]
    assert not wrong


@pytest.mark.parametrize("path", ENGINE + TRAINING, ids=name_of)
def test_nothing_that_runs_foreign_code(path):
    """No pickle, eval, exec or shell; torch.load is a pickle too."""
    tree = parse(path)
    wrong = [
        f"line {line}: {top}"
        for top, _, line in imported(tree, path)
        if top in {"pickle", "marshal", "shelve", "dill"}
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput"}:
            wrong.append(f"line {node.lineno}: {called}")
        if called == "torch.load" and not has_true(node, "weights_only"):
            wrong.append(f"line {node.lineno}: torch.load without weights_only=True")
        if has_true(node, "shell") or has_true(node, "allow_pickle"):
            wrong.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
    assert not wrong


def has_true(call, name):
    return any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is True for k in call.keywords
    )


@pytest.mark.parametrize("path", ENGINE + TRAINING, ids=name_of)
def test_files_and_functions_fit(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    functions = [n for n in ast.walk(parse(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = [
        f"{f.name}: {f.end_lineno - f.lineno + 1}"
        for f in functions
        if f.end_lineno - f.lineno + 1 > MAX_FUNCTION
    ]
    assert not long


@pytest.mark.parametrize("module", ["TumorSynthLib", "TumorSynthLib.errors", "TumorSynthLib.cli"])
def test_import_is_light(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="processor time of a child process is read the POSIX way")
def test_help_answers_at_once():
    """Half a second of processor time at most, which unlike wall time doesn't depend on what else runs."""
    used = []
    for _ in range(3):
        before = os.times()
        command = [sys.executable, "-m", "TumorSynthLib", "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        after = os.times()
        assert done.returncode == 0 and "synthesize" in done.stdout
        used.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(used) <= 0.5


def test_package_list_is_complete():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"]) - {"TumorSynthLib.bundled"}
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ENGINE}
    assert listed == found
    needed = {requirement.split(">")[0] for requirement in project["project"]["dependencies"]}
    assert needed == REQUIRED
    assert not any("==" in requirement for requirement in project["project"]["dependencies"]), (
        "ranges, not pins"
    )


#: Rooms of the engine, lower ones first: a module imports its own room and those above it in this list, inside functions too.
ORDER = (
    ("errors", "engines", "numeric", "terminal", "threads", "memory", "locks", "small_files", "png", "delta"),
    ("volume", "region", "resampling", "phantom"),
    ("radiomics",),
    ("models",),
    ("suitability", "painted", "placement", "deformation", "shape", "shaping"),
    ("edit", "provenance", "pace", "series"),
    ("texture",),
    ("editor", "requests", "measurement"),
    ("report", "report_figures", "report_page", "slices", "series_figures", "sheet"),
    ("worker", "wire", "exchange"),
    (
        "console",
        "outputs",
        "samples",
        "features_file",
        "commands",
        "shape_commands",
        "model_commands",
        "demo",
    ),
    ("study",),
    ("cli", "__main__"),
)
#: Arrows that still run up: a window's grain is fitted by the window itself, on demand.
UPWARD = {("region", "texture")}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def engine_arrows():
    """(module, module that it imports) for each pair in the engine, but for those that only a type checker needs."""
    modules = {module_of(path) for path in ENGINE}
    for path in ENGINE:
        tree, package, skipped = parse(path), list(path.relative_to(ROOT).parent.parts), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                skipped |= {id(inner) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) in skipped or not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            base = "" if isinstance(node, ast.Import) else node.module or ""
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}".strip(".")
                while target and target not in modules:
                    target = target.rpartition(".")[0]
                if target not in ("", "TumorSynthLib", module_of(path)):
                    yield module_of(path), target


def test_imports_run_down():
    level = {name: number for number, room in enumerate(ORDER) for name in room}
    arrows = {
        tuple(module.split(".")[1] for module in pair)
        for pair in engine_arrows()
        if pair[0] != "TumorSynthLib"
    }
    unplaced = {name for pair in arrows for name in pair} - set(level)
    assert not unplaced, f"give these a room in ORDER: {sorted(unplaced)}"
    assert {pair for pair in arrows if level[pair[0]] < level[pair[1]]} == UPWARD


def test_no_import_circle():
    from graphlib import TopologicalSorter

    graph = {}
    for module, target in engine_arrows():
        graph.setdefault(module, set()).add(target)
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_stages_and_what_ct_is_are_said_once():
    """Each stage that an edit reports is in the one table, and nothing but `Intensity` decides what Hounsfield units are."""
    from TumorSynthLib.edit.progress import STAGES, WORDS

    reported, elsewhere = set(), []
    for path in ENGINE + TRAINING:
        text = path.read_text(encoding="utf-8")
        if "models" not in path.parts:  # whose stages are those of an installation
            reported |= set(re.findall(r"\b(?:progress|told|report)\(\s*\"([a-z ]+)\",", text))
        if (
            "def is_ct(" in text
            or 'startswith("CT")' in text
            or 'upper() == "CT"' in text
            or '"unit") ==' in text
        ):
            elsewhere.append(name_of(path))
    assert len(reported) > 5 and reported <= set(WORDS) == set(STAGES) | {"step"}
    assert elsewhere == ["TumorSynthLib/models/intensity.py"]


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_no_hidden_state(path):
    """`nonlocal` is state without a name; texture/ loses its last ones with the passes."""
    if "texture" not in path.relative_to(ROOT).parts:
        assert not [node.lineno for node in ast.walk(parse(path)) if isinstance(node, ast.Nonlocal)]
