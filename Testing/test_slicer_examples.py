"""The examples in the logic's documentation, run in their order; and the contract itself."""

import doctest
import inspect
import os

import pytest
import slicer_runtime

from TumorSynthLib.models import bundled_folder

slicer_runtime.start()

from TumorSynthSlicer import api, self_test  # noqa: E402
from TumorSynthSlicer.logic import EditLogic  # noqa: E402

METHODS = [
    name for name, found in vars(api.Logic).items() if inspect.isfunction(found) and not name.startswith("_")
]


def test_examples(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(tmp_path / "models"))
    with slicer_runtime.freshScene():
        volumeNode, segmentationNode, _mask = self_test.phantom()
        logic = slicer_runtime.moduleLogic()
        names = {
            "logic": logic, "volumeNode": volumeNode, "segmentationNode": segmentationNode, "os": os,
            "folder": str(bundled_folder() / "lung-nodule-ct"), "temporary": str(tmp_path),
        }  # fmt: skip
        runner = doctest.DocTestRunner(verbose=False)
        try:
            for method in METHODS:
                text = inspect.getdoc(getattr(api.Logic, method))
                test = doctest.DocTestParser().get_doctest(text, names, method, None, 0)
                assert test.examples, f"{method} has no example"
                said = []
                runner.run(test, out=said.append, clear_globs=False)
                names.update(test.globs)
                assert runner.failures == 0, "".join(said)
        finally:
            logic.close()


@pytest.mark.parametrize("method", METHODS)
def test_logic_keeps_the_contract(method):
    """Same arguments in the same order, with the same defaults; `help()` shows the contract's text."""
    wanted, found = (inspect.signature(getattr(cls, method)).parameters for cls in (api.Logic, EditLogic))
    assert [(p.name, p.kind, p.default) for p in wanted.values()] == [
        (p.name, p.kind, p.default) for p in found.values()
    ]
    assert inspect.getdoc(getattr(EditLogic, method)) == inspect.getdoc(getattr(api.Logic, method))
