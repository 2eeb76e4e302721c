"""A double of the module's logic for tests of the panel: it answers at once, and its jobs end when the test says so."""

from __future__ import annotations

from types import SimpleNamespace

import slicer
from TumorSynthSlicer import api

from TumorSynthLib.radiomics import table

LABELS = {
    "volume_ml": ("Volume", "ml"),
    "surface_cm2": ("Surface", "cm²"),
    "max_diameter_mm": ("Largest diameter", "mm"),
    "sphericity": ("Sphericity", ""),
    "elongation": ("Elongation", ""),
    "flatness": ("Flatness", ""),
    "mean_intensity": ("Mean intensity", "HU"),
    "intensity_sd": ("Intensity SD", "HU"),
    "skewness": ("Skewness", ""),
    "kurtosis": ("Kurtosis", ""),
    "p10": ("10th percentile", "HU"),
    "p90": ("90th percentile", "HU"),
    "entropy": ("Entropy", "bit"),
    "contrast": ("Contrast", ""),
    "correlation": ("Correlation", ""),
}
KINDS = {"shape": "shape", "firstorder": "texture", "glcm": "texture", "glrlm": "texture", "glszm": "texture"}


def _row(key, name, factor, k):
    feature = table.FEATURES[name]
    label, unit = LABELS.get(key, (feature.short, feature.unit if feature.unit != "1" else ""))
    middle = 10.0 + k
    points = {5: 0.2 * middle, 25: 0.6 * middle, 50: middle, 75: 1.5 * middle, 95: 3.0 * middle}
    return api.FeatureRow(
        key, name, label, unit, feature.meaning, feature.cls, "driver" if key in LABELS else "derived",
        KINDS.get(feature.cls, ""), factor, points, 0.1 * middle, 5.0 * middle,
    )  # fmt: skip


def featureRows() -> list:
    """Rows for all features, drivers first, with an invented population."""
    drivers = [_row(key, name, factor, k) for k, (key, (name, factor)) in enumerate(table.DRIVERS.items())]
    named = {row.name for row in drivers}
    others = [_row(name, name, 1.0, k) for k, name in enumerate(table.FEATURES) if name not in named]
    return drivers + others


MODELS = [
    api.ModelRow("lung-nodule-ct", "Lung nodule (CT)", "0.1.0", "lung", ("CT",), 4_800_000, "CC BY 3.0", "bundled",
                 scores={"Texture, Pearson": 0.81}, edits=api.EDITS, memorisation="The bank holds voxels of two tumours."),
    api.ModelRow("sarcoma", "Soft-tissue sarcoma", "0.1.0", "soft tissue", ("CT", "T1"), 5_100_000, "CC BY 3.0", "installed",
                 removable=True, edits=("measure", "remove", "retexture")),
    api.ModelRow("kidney", "Kidney tumour", "0.2.0", "kidney", ("CT",), 6_000_000, "CC BY-NC", "available"),
]  # fmt: skip


class FakeJob:
    """A job that the test lets end."""

    def __init__(self, edit, calls, arguments):
        self.edit, self.calls, self.arguments, self.running = edit, calls, arguments, True

    def isRunning(self) -> bool:
        return self.running

    def _end(self, name, *values) -> None:
        assert self.running, "a job ends once"
        self.running = False
        self.calls[name](*values)

    def cancel(self) -> None:
        if self.running:
            self._end("onCancel")

    def wait(self, timeout=None):
        raise NotImplementedError

    def progress(self, stage, fraction, remaining=None) -> None:
        self.calls["onProgress"](stage, fraction, remaining)

    def finish(self, outcome) -> None:
        self._end("onDone", outcome)

    def fail(self, message) -> None:
        self._end("onError", message)


class FakeLogic:
    """Implements `api.Logic`; what it was asked is in `calls`."""

    def __init__(self, autoMeasure=True):
        self.autoMeasure, self.calls, self.jobs = autoMeasure, [], []
        self.rows, self.modelRows = featureRows(), list(MODELS)
        self.entries, self.undone, self.missing = [], [], []
        self.nextCheck = api.Check(device="cpu", seconds=6.0, bytes=9e8, modality="CT")
        self._before = None

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode("TumorSynthRadiomics", "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag("TumorSynthRadiomics")
            node = slicer.mrmlScene.AddNode(node)
        return node

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))

    def called(self, name) -> list:
        return [call for call in self.calls if call[0] == name]

    # Models

    def models(self):
        return list(self.modelRows)

    def planInstall(self, source):
        self._note("planInstall", source)
        return ["kidney 0.2.0, 6 MB", "from " + source]

    def installModel(self, source, onProgress=None, sha256=None):
        self._note("installModel", source)
        for step in range(4):
            onProgress("download", step / 4)
        row = api.ModelRow(
            "kidney", "Kidney tumour", "0.2.0", status="installed", removable=True, bytes=6_000_000
        )
        self.modelRows[-1] = row
        return row

    def removeModel(self, modelID):
        self._note("removeModel", modelID)
        self.modelRows = [row for row in self.modelRows if row.id != modelID]

    def features(self, modelID, modality=None, edit=None, region=None, scale=1.0):
        self._note("features", modelID, region)
        return list(self.rows)

    def assignRegions(self, modelID, segmentationNode, regions=None):
        names = next((row.regions for row in self.modelRows if row.id == modelID), ())
        return {name: regions[name] for name in names if (regions or {}).get(name)}

    def suggestModel(self, volumeNode, segmentationNode=None, segmentID=""):
        return "lung-nodule-ct"

    def chooseModel(self, volumeNode, segmentationNode=None, segmentID=""):
        self._note("chooseModel", volumeNode.GetName(), segmentID)
        found = self.suggestModel(volumeNode, segmentationNode, segmentID)
        return api.ModelChoice(
            found or api.NO_MODEL, "nothing says which organ this is" if not found else "chosen"
        )

    # Before an edit

    def check(self, edit, volumeNode, segmentationNode=None, segmentID="", modelID="", **options):
        assert set(options) <= set(api.OPTIONS)
        self._note("check", edit, options)
        return self.nextCheck

    def missingDependencies(self):
        return list(self.missing)

    def installDependencies(self, onLine=None):
        self._note("installDependencies")
        return False

    def measurement(self) -> api.Measurement:
        features = {row.name: 1.2 * row.percentiles[50] * row.factor for row in self.rows}
        percentiles = {row.name: 62.0 for row in self.rows}
        return api.Measurement(features, percentiles, "lung-nodule-ct", "CT", "HU", 900)

    def measure(self, volumeNode, segmentationNode, segmentID="", modelID="", modality=None):
        return self.measurement()

    def previewShape(self, modelID, features, seed=0, to=None, modelNode=None, *, onDone=None, onError=None):
        self._note("previewShape", dict(features), to, modelNode)
        onDone(modelNode or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Preview"))

    def reachable(
        self, volumeNode, segmentationNode, segmentID, modelID, features, *, onRange, onEnd, regions=None
    ):
        self._note("reachable", list(features))
        self.reach = SimpleNamespace(features=list(features), onRange=onRange, onEnd=onEnd)

    # Edits

    def start(self, edit, volumeNode, segmentationNode=None, segmentID="", modelID="", *, onProgress=None, onDone=None,
              onError=None, onCancel=None, **options):  # fmt: skip
        assert set(options) <= set(api.OPTIONS)
        assert not any(job.running for job in self.jobs), "one job at a time"
        self._note("start", edit, options)
        calls = {"onProgress": onProgress, "onDone": onDone, "onError": onError, "onCancel": onCancel}
        job = FakeJob(edit, calls, (volumeNode, segmentationNode, segmentID, modelID, options))
        self.jobs.append(job)
        if edit == "measure" and self.autoMeasure:
            job.finish(api.Outcome("measure", modelID, measurement=self.measurement()))
        return job

    def poll(self):
        pass

    def currentJob(self):
        return next((job for job in self.jobs if job.running), None)

    def outcome(self, job, **changes) -> api.Outcome:
        """What the job would give, noted in the history as the logic does."""
        volume, segmentation, segmentID, modelID, options = job.arguments
        names = {row.key: row for row in self.rows}
        asked = {names[k].name: v * names[k].factor for k, v in options.get("features", {}).items()}
        entryID = f"edit{len(self.entries) + 1}"
        self.entries.append(
            api.HistoryEntry(
                entryID, job.edit, f"{job.edit.capitalize()}: {volume.GetName()}", "2026-01-02T03:04:05", modelID,
                volume.GetName(), volume.GetID(), seed=options["seed"], asked=asked, reached=asked,
            )
        )  # fmt: skip
        self.undone = []
        whole = {
            "entryID": entryID, "volumeNode": volume, "segmentationNode": segmentation, "segmentID": segmentID,
            "asked": asked, "used": asked, "reached": asked, "differences": dict.fromkeys(asked, 0.1),
            "timing": {"total": 4.0, "overhead": 0.3},
        }  # fmt: skip
        return api.Outcome(job.edit, modelID, **(whole | changes))

    def _blocking(self, *arguments, **options):
        raise NotImplementedError("the panel doesn't block")

    synthesize = remove = retexture = reshape = move = insert = series = _blocking

    # After an edit

    def history(self):
        return list(self.entries)

    def canUndo(self):
        return any(not entry.undone for entry in self.entries)

    def canRedo(self):
        return any(entry.undone for entry in self.entries)

    def _mark(self, index, undone):
        from dataclasses import replace

        self.entries[index] = replace(self.entries[index], undone=undone)
        return self.entries[index]

    def undo(self):
        return self._mark(max(i for i, entry in enumerate(self.entries) if not entry.undone), True)

    def redo(self):
        return self._mark(min(i for i, entry in enumerate(self.entries) if entry.undone), False)

    def repeat(self, entryID):
        self._note("repeat", entryID)
        old = next(entry for entry in self.entries if entry.id == entryID)
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "repeated")
        job = FakeJob(old.edit, {}, (volume, None, "", old.modelID, {"seed": old.seed}))
        return self.outcome(job)

    def repeatOptions(self, entryID):
        return {}

    def beforeVolume(self, entryID):
        self._note("beforeVolume", entryID)
        if self._before is None or self._before.GetScene() is None:
            self._before = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "before")
            self._before.SetHideFromEditors(True)
        return self._before

    def hideBefore(self):
        if self._before is not None and self._before.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(self._before)
        self._before = None

    def keepAsNewVolume(self, entryID=""):
        self._note("keepAsNewVolume", entryID)
        return SimpleNamespace(GetName=lambda: "kept")

    def saveReport(self, folder, entryIDs=()):
        self._note("saveReport", folder)
        return folder + "/report.html"

    def saveResult(self, path, entryID=""):
        self._note("saveResult", path, entryID)
        return path

    def featureTable(self, entryID):
        return None

    def featurePlot(self, entryID):
        self._note("featurePlot", entryID)
        return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")

    def shutdown(self):
        pass
