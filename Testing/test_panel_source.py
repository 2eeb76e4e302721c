"""Rules for the source of the panel that no click can test: what it imports, what can be translated, what the .ui file holds."""

import ast
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[1] / "TumorSynthRadiomics"
PANEL = sorted((MODULE / "TumorSynthSlicer").glob("panel*.py"))
EVERYTHING = sorted(MODULE.rglob("*.py"))
UI = ET.parse(MODULE / "Resources" / "UI" / "TumorSynthRadiomics.ui").getroot()


def name_of(path):
    return path.name


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", PANEL, ids=name_of)
def test_the_panel_imports_neither_the_engine_nor_torch(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops <= {"qt", "slicer", "vtk", "TumorSynthSlicer"} | set(sys.stdlib_module_names)
    ours = {name for name in imports(path) if name.startswith("TumorSynthSlicer.")}
    assert all(name.split(".")[1].startswith(("panel", "parameters", "rows")) for name in ours)


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_translated_texts_are_plain(path):
    """lupdate finds only literal strings, and a formatted one would have no translation."""
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    texts = [call.args for call in calls if isinstance(call.func, ast.Name) and call.func.id == "_"]
    for arguments in texts:
        assert (
            len(arguments) == 1
            and isinstance(arguments[0], ast.Constant)
            and isinstance(arguments[0].value, str)
        )
        assert "{}" not in arguments[0].value, "name the field"


def widgets():
    return list(UI.iter("widget"))


def test_names_in_the_ui_file_are_unique():
    names = [widget.get("name") for widget in widgets()]
    assert len(names) == len(set(names))


def test_the_ui_file_has_no_styling():
    assert not [p for p in UI.iter("property") if p.get("name") in ("styleSheet", "font", "palette")]


def test_linked_parameters_exist():
    tree = ast.parse((MODULE / "TumorSynthSlicer" / "parameters.py").read_text(encoding="utf-8"))
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    known = {node.target.id for node in cls.body if isinstance(node, ast.AnnAssign)}
    linked = [p.find("string").text for p in UI.iter("property") if p.get("name") == "SlicerParameterName"]
    assert linked and set(linked) <= known and len(linked) == len(set(linked))


def test_selectors_hear_of_the_scene():
    selectors = {
        w.get("name")
        for w in widgets()
        if w.get("class") in ("qMRMLNodeComboBox", "qMRMLSegmentSelectorWidget")
    }
    assert selectors == {c.find("receiver").text for c in UI.iter("connection")}


def test_every_control_in_the_ui_file_has_a_tooltip_or_gets_one():
    """What a button says while it is disabled is set by the code, which setAvailable does."""
    code = "".join("".join(path.read_text(encoding="utf-8").split()) for path in PANEL)
    kinds = (
        "QPushButton",
        "QCheckBox",
        "QSpinBox",
        "QDoubleSpinBox",
        "QComboBox",
        "QSlider",
        "QLineEdit",
        "ctkSearchBox",
    )
    for widget in widgets():
        if widget.get("class") in kinds and not [
            p for p in widget.findall("property") if p.get("name") == "toolTip"
        ]:
            assert f"setAvailable(self._ui.{widget.get('name')}" in code, widget.get("name")
