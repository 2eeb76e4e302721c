"""The module's logic class: Slicer's with every edit; apart, so that loading the module imports no engine."""

from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from .logic import EditLogic


class TumorSynthRadiomicsLogic(ScriptedLoadableModuleLogic, EditLogic):
    """Every edit on nodes, without the panel; see `TumorSynthSlicer.api.Logic`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleLogic.__init__(self, parent)
        if not hasattr(self, "_client"):  # newer versions of Slicer have called it already
            EditLogic.__init__(self)
