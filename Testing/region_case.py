"""A tiny model with two regions, a core and its rim, and a tumour that has both, on MRML nodes."""

from __future__ import annotations

from pathlib import Path

import editor_case
import numpy as np
import slicer
import slicer_runtime
import tiny_bundle

from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.volume import Volume

slicer_runtime.start()

from TumorSynthSlicer import nodes  # noqa: E402  its folder is on the path once Slicer is started
from TumorSynthSlicer.geometry import RAS_TO_LPS, toVTK  # noqa: E402

ID = "tiny-regions"
REGIONS = {"necrosis": 1, "enhancing": 4}
CENTRE = (10, 20, 18)


def tumour(seed: int = 0) -> tuple[Volume, np.ndarray]:
    """CT with a dark core in a bright rim, and the labelmap (K, J, I) uint8."""
    volume, whole = editor_case.ct(seed)
    core = editor_case.ball(CENTRE, 4.5, editor_case.SPACING)
    array = volume.array.copy()
    array[core] -= 60
    array[whole & ~core] += 40
    return volume.with_array(array), np.where(core, REGIONS["necrosis"], REGIONS["enhancing"] * whole).astype(
        np.uint8
    )


def model(folder: Path) -> Bundle:
    """A random network for both regions, whose populations are the cores and the rims of `tumour`."""
    rows: dict[str, list] = {name: [] for name in REGIONS}
    for seed in range(12):
        volume, labels = tumour(seed)
        for name, label in REGIONS.items():
            rows[name].append(
                extract(
                    volume.array,
                    labels == label,
                    editor_case.SPACING,
                    Settings(binWidth=25),
                    editor_case.CLASSES,
                )
            )
    names = tuple(rows["necrosis"][0])
    values = {name: np.array([[row[n] for n in names] for row in found]) for name, found in rows.items()}
    base = tiny_bundle.tiny_bundle(folder / "base", names=names, values=values["necrosis"], network=True)
    manifest = {key: value for key, value in base.json.items() if key not in ("files", "format")}
    entry = base.json["population"]["CT"]
    manifest |= {
        "id": ID, "title": "Core and rim", "regions": [{"name": n, "label": v} for n, v in REGIONS.items()],
        "population": {"CT": {name: {**entry, "tensor": f"CT-{name}"} for name in REGIONS}},
    }  # fmt: skip
    manifest["network"]["config"]["regions"] = len(REGIONS)
    files = {
        "network.safetensors": tiny_bundle._random_network(manifest, 0),
        "population.safetensors": {f"CT-{name}": array.astype(np.float32) for name, array in values.items()},
    }
    return write_bundle(folder / ID, manifest, files)


def addVolume(volume: Volume, name: str):
    """A volume node of an image in memory."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, volume.array)
    matrix = np.eye(4)  # index to LPS
    matrix[:3, :3] = np.reshape(volume.direction, (3, 3)) * volume.spacing
    matrix[:3, 3] = volume.origin
    node.SetIJKToRASMatrix(toVTK(RAS_TO_LPS @ matrix))
    node.CreateDefaultDisplayNodes()
    return node


def addTumour():
    """(volume node, segmentation node, labelmap); the segments have IDs core and rim, and telling names."""
    volume, labels = tumour()
    volumeNode = addVolume(volume, "glioma")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    whole = tuple(slice(0, n) for n in labels.shape)
    for segment, name, region in (("core", "Necrosis", "necrosis"), ("rim", "Enhancing tumour", "enhancing")):
        node.GetSegmentation().AddEmptySegment(segment, name)
        nodes.setMask(node, segment, nodes.Mask(whole, labels == REGIONS[region]), volumeNode)
    return volumeNode, node, labels
