"""The extension as a package: lists of files, catalogue entry, imports; and an edit from the installed package alone."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "TumorSynthRadiomics"
SLICER_SIDE = sorted(MODULE.rglob("*.py"))
#: What may be imported at file scope on the Slicer side, besides the standard library and ourselves.
ALLOWED = {"slicer", "vtk", "qt", "ctk", "numpy", "scipy", "SimpleITK", "TumorSynthLib", "TumorSynthSlicer"}


def tracked(folder: str) -> set[str]:
    """Files of a folder that git tracks."""
    done = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def variables(text: str) -> dict[str, str]:
    """`set(NAME value …)` of a CMake file."""
    return {name: value.strip() for name, value in re.findall(r"^set\((\w+)\s+([^)]*)\)", text, re.MULTILINE)}


def test_module_lists_every_tracked_file():
    found = variables((MODULE / "CMakeLists.txt").read_text(encoding="utf-8"))
    listed = " ".join(found[f"MODULE_PYTHON_{kind}"] for kind in ("SCRIPTS", "RESOURCES"))
    listed = {
        f"TumorSynthRadiomics/{name}"
        for name in listed.replace("${MODULE_NAME}", "TumorSynthRadiomics").split()
    }
    assert listed == tracked("TumorSynthRadiomics") - {"TumorSynthRadiomics/CMakeLists.txt"}


def test_only_the_module_lies_in_its_folder():
    """Slicer takes every .py file there for a module."""
    assert [path.name for path in MODULE.glob("*.py")] == ["TumorSynthRadiomics.py"]


def test_extension_metadata():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert text.startswith("cmake_minimum_required(VERSION 3.28.0...3.28.0 FATAL_ERROR)")
    assert "project(TumorSynthRadiomics)" in text
    for name in (
        "HOMEPAGE",
        "CATEGORY",
        "CONTRIBUTORS",
        "DESCRIPTION",
        "ICONURL",
        "SCREENSHOTURLS",
        "DEPENDS",
    ):
        lines = re.findall(rf'^set\(EXTENSION_{name} "[^"\n]+"\)$', text, re.MULTILINE)
        assert len(lines) == 1, (
            name
        )  # one quoted string in one set(), no space before the closing parenthesis


def test_readme_speaks_of_patents():
    assert "Patents: none known." in (ROOT / "README.md").read_text(encoding="utf-8")


def test_catalogue_entry_follows_its_schema():
    """The rules of slicer-extension-catalog-entry-schema-v1.0.2.json, and agreement with CMake."""
    entry = json.loads((ROOT / "TumorSynthRadiomics.json").read_text(encoding="utf-8"))
    known = {
        "$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "build_dependencies": list,
        "dicom_support_rule": str, "build_subdirectory": str, "enabled": bool, "tier": int,
    }  # fmt: skip
    assert {"$schema", "category", "scm_url"} <= set(entry) <= set(known)
    assert all(isinstance(value, known[name]) for name, value in entry.items())
    assert (
        entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
        and 1 <= entry["tier"] <= 5
    )
    cmake = variables((ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert " ".join(entry["build_dependencies"]) == cmake["EXTENSION_DEPENDS"].strip('"')
    assert entry["category"] == cmake["EXTENSION_CATEGORY"].strip('"')
    assert entry["scm_url"].removesuffix(".git") == cmake["EXTENSION_HOMEPAGE"].strip('"')
    assert Path(entry["scm_url"]).name == "SlicerTumorSynthRadiomics.git"


def test_icon_is_128_pixels():
    data = (MODULE / "Resources" / "Icons" / "TumorSynthRadiomics.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[16:24] == (128).to_bytes(4, "big") * 2


def file_scope_imports(path: Path):
    """(top-level package, line) of imports that run when a file is imported."""
    nodes = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0], node.lineno
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not typing_only(node):
            nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def typing_only(node) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_nothing_foreign_at_file_scope(path):
    wrong = [
        f"line {line}: {top}"
        for top, line in file_scope_imports(path)
        if top not in ALLOWED | set(sys.stdlib_module_names)
    ]
    assert not wrong


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_slicer_side_files_and_functions_fit(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    functions = [
        n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert not [f.name for f in functions if f.end_lineno - f.lineno + 1 > 80]
    assert "torch" not in {
        a.name.split(".")[0] for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names
    }


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_translated_texts_are_plain(path):
    """`_(…)` takes one literal, so that Qt's tools find it; values go in by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
            assert isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str), node.lineno
            assert "{}" not in node.args[0].value, node.lineno


def test_loading_the_module_imports_no_engine_and_changes_no_path():
    """At the application's start: nothing is imported before the module is used, and importing changes nothing."""
    code = (
        "import sys; sys.path.insert(0, 'Testing')\n"
        "import slicer_runtime; slicer_runtime.start()\n"
        "before = list(sys.path)\n"
        "import TumorSynthRadiomics, TumorSynthSlicer\n"
        "assert sys.path == before\n"
        "slicer_runtime.loadModule()\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('TumorSynthLib', 'TumorSynthSlicer', 'torch')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['TumorSynthSlicer']"


def engine_modules() -> list[str]:
    """Modules of the engine that the Slicer side imports anywhere, inside functions too."""
    found = set()
    for path in SLICER_SIDE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("TumorSynthLib"):
                found.add(node.module)
                found |= {f"{node.module}.{a.name}" for a in node.names if is_module(node.module, a.name)}
    return sorted(found)


def is_module(package: str, name: str) -> bool:
    folder = ROOT.joinpath(*package.split("."))
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def test_what_the_application_imports_needs_no_torch():
    """torch lives in the worker's process only: the application imports its part of the engine where torch isn't there."""
    code = (
        "import importlib, sys\n"
        "for name in ('torch', 'safetensors', 'monai'): sys.modules[name] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    names = engine_modules()
    assert len(names) > 10
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_requirements_replace_nothing_of_slicers():
    lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    assert names == {"safetensors"}
    assert not any("==" in line for line in lines), "ranges, not pins"


def test_opening_the_module_imports_no_torch():
    """Nor SimpleITK, scipy or safetensors."""
    code = (
        "import sys; sys.path.insert(0, 'Testing')\n"
        "import slicer_runtime; slicer_runtime.start()\n"
        "slicer_runtime.moduleLogic()\n"
        "print([m for m in ('torch', 'monai', 'SimpleITK', 'scipy', 'safetensors') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def cmake_program() -> str:
    beside = Path(sys.executable).with_name("cmake")
    found = str(beside.resolve()) if beside.exists() else shutil.which("cmake")
    if not found:
        pytest.skip("CMake isn't installed")
    return found


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The extension configured, built and installed against the stand-in for Slicer's configuration."""
    cmake = cmake_program()
    build, target = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("package")
    stub = ROOT / "Testing" / "slicer_stub"
    steps = (
        [cmake, "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={stub}", "-DBUILD_TESTING=ON"],
        [cmake, "--build", str(build)],
        [cmake, "--install", str(build), "--prefix", str(target)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stdout + done.stderr, done.stderr
    built = build / "lib" / "Slicer-5.12" / "qt-scripted-modules" / "TumorSynthLib" / "worker.py"
    assert built.is_file()  # the module runs from the build tree, too
    return target / "lib" / "Slicer-5.12" / "qt-scripted-modules"


def test_package_holds_what_git_tracks(package):
    there = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    wanted = {name.removeprefix("TumorSynthRadiomics/") for name in tracked("TumorSynthRadiomics")} - {
        "CMakeLists.txt"
    }
    wanted |= {name for name in tracked("TumorSynthLib") if name.endswith((".py", ".json"))}
    models = tracked("Resources/Models")
    wanted |= {"TumorSynthLib/LICENSE.txt", "TumorSynthLib/CITATION.cff"}
    wanted |= {name.replace("Resources/Models", "TumorSynthLib/bundled") for name in models}
    assert wanted <= there
    assert not [name for name in there if "__pycache__" in name or name.startswith(("Testing", "Training"))]


def test_slicers_own_script_packs_it(tmp_path):
    """The archive that the Extensions Manager and "Install from file" take, by the script of Slicer's pull request 9118."""
    script = Path(
        os.environ.get("TUMORSYNTH_SLICER_SOURCE") or "none",
        "Utilities",
        "Scripts",
        "package_python_extension.py",
    )
    if not script.is_file():
        pytest.skip("TUMORSYNTH_SLICER_SOURCE names no Slicer source folder with package_python_extension.py")
    folders = {
        "dummy-build": "slicer",
        "build-dir": "build",
        "install-prefix": "install",
        "output-dir": "out",
    }
    command = [sys.executable, str(script), "--ext-src", str(ROOT), "--slicer-src", str(script.parents[2])]
    command += ["--cmake", str(cmake_program())]
    for option, folder in folders.items():
        command += [f"--{option}", str(tmp_path / folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.findall(r"Warning[^\n]* at Tumor[^\n]*", said)
    (archive,) = (tmp_path / "out").iterdir()
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (module,) = (tmp_path / "unpacked").rglob("TumorSynthRadiomics.py")
    assert {"LICENSE.txt", "CITATION.cff"} <= {
        path.name for path in (module.parent / "TumorSynthLib").iterdir()
    }
    edit_from(module.parent, tmp_path)


def test_edit_from_the_package_alone(package, tmp_path):
    """Engine, models and module come from the package; the worker process as well."""
    edit_from(package, tmp_path)


def edit_from(package: Path, tmp_path: Path) -> None:
    """The self-test of the module in a package, with nothing of the checkout but the stand-ins for Slicer."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from pathlib import Path\n"
        "import slicer_runtime; package = Path(sys.argv[2]); slicer_runtime.start(package)\n"
        "import slicer, TumorSynthLib\n"
        "from TumorSynthLib.models import bundled_folder\n"
        "entry = slicer_runtime.loadModule()\n"
        "assert Path(entry.path).parent == package and package in Path(TumorSynthLib.__file__).parents\n"
        "assert package in bundled_folder().parents, bundled_folder()\n"
        "from TumorSynthSlicer import worker_client\n"
        "assert worker_client.engineFolder() == package\n"
        "slicer.selfTests['TumorSynthRadiomics']()\n"
        "print('edited')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(package), "TUMORSYNTH_MODELS": str(tmp_path)}
    command = [sys.executable, "-c", code, str(ROOT / "Testing"), str(package)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "edited", done.stdout + done.stderr


def test_source_checkout_finds_its_engine(tmp_path):
    """The module's folder alone is on the path, as with an additional module path."""
    code = (
        "import sys; from pathlib import Path\n"
        "import TumorSynthSlicer; before = list(sys.path); TumorSynthSlicer.findEngine()\n"
        "import TumorSynthLib\n"
        "print(Path(TumorSynthLib.__file__).parents[1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    command = [sys.executable, "-S", "-c", code]  # without the packages of this Python
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(ROOT), done.stderr


def test_sample_data_is_registered_with_hashes(monkeypatch):
    import types

    import slicer_runtime

    slicer_runtime.start()
    registered = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **given: registered.append(given))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    slicer_runtime.loadModule().python.registerSampleData()
    assert {given["sampleName"] for given in registered} == {
        "TumorSynthLung",
        "TumorSynthSarcoma",
        "TumorSynthBrain",
    }
    for given in registered:
        lengths = {
            len(given[name])
            for name in ("uris", "fileNames", "nodeNames", "checksums", "loadFileTypes", "loadFiles")
        }
        assert lengths == {2} and Path(given["thumbnailFileName"]).is_file()
        assert all(
            re.fullmatch(r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/\S+", u)
            for u in given["uris"]
        )
        assert all(re.fullmatch(r"SHA256:[0-9a-f]{64}", c) for c in given["checksums"])


def test_sample_data_hashes_are_those_of_the_files(shared_data):
    import hashlib

    import slicer_runtime

    slicer_runtime.start()
    from TumorSynthSlicer.sample_data import SAMPLES

    from TumorSynthLib.samples import FILES

    hashes = {
        address.rsplit("/", 1)[1]: digest for files in SAMPLES.values() for address, _n, _m, digest in files
    }
    for name in ("lung1_image.nrrd", "lung1_label.nrrd"):
        assert hashes[name] == FILES[name]
    for name in ("brain1_image.nrrd", "brain1_label.nrrd"):
        assert hashes[name] == hashlib.sha256((shared_data / "pyradiomics" / name).read_bytes()).hexdigest()
