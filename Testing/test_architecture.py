"""The arrows between the parts, and the rules that keep them safe and quick to start."""

import ast
import os
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
