"""Tables, plots, reports and files of an edit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from TumorSynthLib import provenance
from TumorSynthLib.errors import InputError, TumorSynthError
from TumorSynthLib.radiomics.table import DRIVERS, FEATURES

from . import history, nodes, sidecars, subject
from .model_rows import featureLabel

SHOWN = 12  # features of a plot


def featureTable(entry: history.Entry):
    """The table node of an edit, made at the first call."""
    table = entry.node.GetNodeReference(history.TABLE)
    if table is None:
        name = subject.resultName(entry.record["title"], "table")
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        _fill(table, entry)
        entry.node.SetNodeReferenceID(history.TABLE, table.GetID())
        subject.placeBeside(table, entry.volumeNode)
    return table


def featurePlot(entry: history.Entry):
    """The chart node of an edit, made at the first call: asked and reached as bars."""
    chart = entry.node.GetNodeReference(history.CHART)
    if chart is not None:
        return chart
    table = featureTable(entry)
    chart = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLPlotChartNode", subject.resultName(entry.record["title"], "chart")
    )
    chart.SetTitle(entry.record["title"])
    chart.SetYAxisTitle(_("standard deviations of the model's tumours"))
    colours = {"asked": (0.45, 0.45, 0.45), "reached": (0.9, 0.5, 0.1)}
    for column, label in (("asked", _("Asked")), ("reached", _("Reached"))):
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", label)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeBar)
        series.SetYColumnName(_columns()[f"{column}_sigma"])
        series.SetLabelColumnName(_columns()["feature"])
        series.SetColor(*colours[column])
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    entry.node.SetNodeReferenceID(history.CHART, chart.GetID())
    subject.placeBeside(chart, entry.volumeNode)
    return chart


def _columns() -> dict[str, str]:
    return {
        "feature": _("Feature"), "name": _("Name"), "before": _("Before"), "asked": _("Asked"), "used": _("Used"),
        "reached": _("Reached"), "difference": _("Difference (σ)"), "asked_sigma": _("Asked (σ)"),
        "reached_sigma": _("Reached (σ)"),
    }  # fmt: skip


def _fill(table, entry: history.Entry) -> None:
    """Rows: the asked features, farthest off first, then the others that drive a tumour; without any, all that was measured."""
    rows = _rows(entry)
    for key, title in _columns().items():
        column = vtk.vtkStringArray() if key in ("feature", "name") else vtk.vtkDoubleArray()
        column.SetName(title)
        for row in rows:
            column.InsertNextValue(row[key])
        table.AddColumn(column)
    table.SetUseColumnTitleAsColumnHeader(True)
    table.SetLocked(True)


def _rows(entry: history.Entry) -> list[dict]:
    record = entry.record
    asked, reached, before = record["asked"], record["reached"], record["before"]
    drivers = [name for name, _factor in DRIVERS.values() if name in reached and name not in asked]
    names = sorted(asked, key=lambda n: -abs(record["differences"].get(n) or 0.0)) + drivers
    middle = _middle(entry)
    return [_row(name, record, middle) for name in names if name in {**before, **reached, **asked}]


def _row(name: str, record: dict, middle: dict[str, tuple[float, float]]) -> dict:
    nan = float("nan")
    values = {key: _number(record[key].get(name)) for key in ("before", "asked", "used", "reached")}
    mean, spread = middle.get(name, (nan, nan))
    feature = FEATURES.get(name)
    keys = {full: key for key, (full, _factor) in DRIVERS.items()}
    return {
        "feature": featureLabel(feature, keys.get(name, "")) if feature else name, "name": name, **values,
        "difference": _number(record["differences"].get(name)),
        "asked_sigma": (values["asked"] - mean) / spread, "reached_sigma": (values["reached"] - mean) / spread,
    }  # fmt: skip


def _middle(entry: history.Entry) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of each feature among the model's tumours; before the edit, where the model isn't here."""
    record = entry.record
    try:
        population = entry.bundle().population(record["provenance"].get("modality"))
    except TumorSynthError:
        return {n: (record["before"].get(n, 0.0), max(s, 1e-12)) for n, s in record["spread"].items() if s}
    return {
        n: (float(m), max(float(s), 1e-12))
        for n, m, s in zip(population.names, population.mean, population.std)
    }


def _number(value) -> float:
    return float("nan") if value is None else float(value)


def saveReport(folder: str, chosen: list[history.Entry], title: str) -> str:
    """Write an HTML report on edits into a folder; returns the file."""
    from TumorSynthLib.report import write_report

    return str(write_report(folder, title, [_reportEdit(entry) for entry in chosen]))


def _reportEdit(entry: history.Entry):
    from TumorSynthLib.report import ReportEdit

    record = entry.record
    original = nodes.volumeOf(entry.volumeNode).with_array(history.arrayAt(entry, after=False))
    edited = original.with_array(history.arrayAt(entry, after=True))
    shape, given = original.array.shape, entry.usedMask()
    now = _maskAfter(entry) or given
    result = SimpleNamespace(
        volume=edited, mask=now.full(shape), warnings=tuple(record["warnings"]), timing=record["timing"],
        provenance=record["provenance"], spread=record["spread"],
        **{name: record[name] for name in ("asked", "used", "reached", "before")},
    )  # fmt: skip
    modality = record["provenance"].get("modality") or ""
    return ReportEdit(
        subject.editName(entry.record["edit"]), original, result, given.full(shape) if given else None,
        _population(entry, modality), modality,
    )  # fmt: skip


def _population(entry: history.Entry, modality: str):
    try:
        return entry.bundle().population(modality)
    except TumorSynthError:
        return None


def _maskAfter(entry: history.Entry) -> nodes.Mask | None:
    """The tumour after an edit that changed its place or shape: its segment was made on the volume's grid."""
    state = (entry.payload().get("segment") or {}).get("after")
    if not state:
        return None
    from TumorSynthLib import delta

    i0, i1, j0, j1, k0, k1 = state["extent"]
    box = (slice(k0, k1 + 1), slice(j0, j1 + 1), slice(i0, i1 + 1))
    return nodes.Mask(box, delta.unpack(state["bits"], [s.stop - s.start for s in box]))


def saveResult(path: str, entry: history.Entry) -> str:
    """Write the volume after an edit with its marks, its mask and its record: all or none."""
    from TumorSynthLib.outputs import Staging
    from TumorSynthLib.volume import check_output, write_volume

    target = check_output(path)
    record = entry.record["provenance"]
    voxels = np.ascontiguousarray(history.arrayAt(entry, after=True))
    volume = nodes.volumeOf(entry.volumeNode).with_array(voxels)
    sidecar = provenance.sidecar_path(target)
    mask = (_maskAfter(entry) or entry.usedMask()).full(voxels.shape)
    beside = target.with_name(f"{sidecar.stem}_mask{target.name[len(sidecar.stem) :]}")
    _checkFree(target, sidecar, beside)
    whole = {**provenance.with_files(record, {"result": target, "mask": beside})}
    whole["edits"] = history.recordsUpTo(entry)
    with Staging() as staging:
        write_volume(volume, staging.file(target), provenance.marks(record))
        write_volume(volume.with_array(mask.astype(np.uint8)), staging.file(beside))
        provenance.write_sidecar(whole, staging.file(sidecar).with_name(target.name))
    return str(target)


def _checkFree(target, sidecar, mask) -> None:
    """Raise InputError where a file beside the image would be overwritten that isn't of an earlier result."""
    ours = sidecar.is_file() and sidecars.isRecord(sidecar)
    for path in (sidecar, mask):
        if path.exists() and not ours:
            text = _(
                "{file} is there already and isn't of an earlier result: choose another name than {name}"
            )
            raise InputError(text.format(file=path.name, name=target.name))
