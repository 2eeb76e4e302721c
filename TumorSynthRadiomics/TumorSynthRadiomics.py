"""Tumor Synth Radiomics: edit tumours in CT and MR by their radiomics features. Entry classes only; see TumorSynthSlicer."""

import sys
import unittest

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class TumorSynthRadiomics(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        import TumorSynthSlicer

        TumorSynthSlicer.findEngine()
        parent.title = _("Tumor Synth Radiomics")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["SlicerTumorSynthRadiomics contributors"]
        parent.helpText = _(
            "Edit a tumour in a CT or MR volume by its radiomics features: measure it, remove it, give it another texture, "
            "shape, size or place, or put a new one into healthy tissue. For research use only; not for diagnosis. "
            'See <a href="{url}">the documentation</a>.'
        ).format(url="https://github.com/SlicerTumorSynthRadiomics/SlicerTumorSynthRadiomics")
        parent.acknowledgementText = _(
            "Implements and extends: Kim, Na, Ko, Park, Tumor Synthesis Conditioned on Radiomics, WACV 2025."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)
        slicer.app.connect("startupCompleted()", watchSaves)


def registerSampleData():
    """Offer the tutorial's volumes in the module Sample Data."""
    from TumorSynthSlicer.sample_data import register

    register()


def watchSaves():
    """Have the application's ordinary Save write the record of a synthetic volume beside its file."""
    from TumorSynthSlicer import sidecars

    sidecars.watchSaves()


class TumorSynthRadiomicsWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel, made of the .ui file and `TumorSynthSlicer.panel`."""

    def __init__(self, parent=None):
        self.logic, self.panel = None, None
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from TumorSynthSlicer.module_logic import TumorSynthRadiomicsLogic
        from TumorSynthSlicer.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/TumorSynthRadiomics.ui"))
        self.layout.addWidget(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = TumorSynthRadiomicsLogic()
        self.panel = Panel(uiWidget, self.logic)
        self.panel.connectParameters()
        if (
            self.parent.visible
        ):  # reloaded while the user looks at it, after which Slicer doesn't call `enter`
            self.panel.enter()

    def enter(self):
        if self.panel is not None:
            self.panel.enter()

    def exit(self):
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self):
        if self.panel is not None:
            self.panel.cleanup()
        if self.logic is not None:
            self.logic.close()
        self.panel = self.logic = None

    def onReload(self):
        """Load the package anew, too; `slicer.util.reloadScriptedModule` knows the module's own file only."""
        from TumorSynthSlicer import sidecars

        self.cleanup()
        sidecars.stopWatching()
        for name in [n for n in sys.modules if n.split(".")[0] in ("TumorSynthSlicer", "TumorSynthLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        watchSaves()


def __getattr__(name):
    """The logic class, at its first use: loading the module at the application's start imports nothing of the engine."""
    if name != "TumorSynthRadiomicsLogic":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import TumorSynthSlicer

    TumorSynthSlicer.findEngine()
    from TumorSynthSlicer.module_logic import TumorSynthRadiomicsLogic

    return TumorSynthRadiomicsLogic


class TumorSynthRadiomicsTest(ScriptedLoadableModuleTest):
    """The self-test: the whole way on a small volume that is made here, without any download."""

    def setUp(self):
        slicer.mrmlScene.Clear(False)

    def runTest(self):
        from TumorSynthSlicer import self_test

        for test in self_test.TESTS:
            self.setUp()
            self.delayDisplay(test.__doc__.splitlines()[0])
            try:
                test(self)
            except unittest.SkipTest as reason:  # no runner is there to take it for what it is
                self.delayDisplay(_("Left out: {reason}").format(reason=reason))
        self.delayDisplay(_("Test passed"))
