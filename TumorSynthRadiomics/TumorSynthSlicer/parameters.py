"""What the panel remembers in the scene, so that a saved and reloaded scene shows the same."""

from typing import Annotated

from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class PanelParameters:
    """The panel's parameters. Those that are named in the .ui file (SlicerParameterName) are linked to their widgets.

    :param edit: the chosen edit, one of `panel_edit.TASKS`.
    :param textureRequest, shapeRequest: `panel_request.Request` as JSON, of the tumour that is there; insertTexture and
        insertShape of a new one.
    :param keepPattern: percent of a tumour's own pattern that other features leave.
    :param regionSegments: segment ID by region as JSON, for a model with several regions.
    :param grow: mm; 0 lets the engine find how far the tumour shows.
    :param lendSegmentation, lendSegmentID: where a removal takes its tissue from; avoid…: what it keeps away from.
    :param steps: 0 is the model's own choice.
    :param inPlace: edits change the volume itself, and not a copy that is made for them.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    segmentID: str = ""
    modelID: str = ""
    regionSegments: str = "{}"
    allFeatures: bool = False
    edit: str = "retexture"
    textureRequest: str = "{}"
    shapeRequest: str = "{}"
    insertTexture: str = "{}"
    insertShape: str = "{}"
    keepPattern: Annotated[int, WithinRange(0, 100)] = 70
    whole: bool = True
    grow: Annotated[float, WithinRange(0.0, 10.0)] = 0.0
    lendSegmentation: vtkMRMLSegmentationNode
    lendSegmentID: str = ""
    avoidSegmentation: vtkMRMLSegmentationNode
    avoidSegmentID: str = ""
    point: vtkMRMLMarkupsFiducialNode
    insideSegmentation: vtkMRMLSegmentationNode
    insideSegmentID: str = ""
    nearest: bool = False
    autoPlace: bool = False
    massEffect: Annotated[float, WithinRange(0.0, 60.0)] = 0.0
    useDonor: bool = False
    donorVolume: vtkMRMLScalarVolumeNode
    donorSegmentation: vtkMRMLSegmentationNode
    donorSegmentID: str = ""
    seriesFeature: str = ""
    seriesFrom: float = 0.0
    seriesTo: float = 0.0
    seriesCount: Annotated[int, WithinRange(2, 20)] = 5
    preview: bool = True
    advanced: bool = False
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    samples: Annotated[int, WithinRange(1, 64)] = 1
    steps: Annotated[int, WithinRange(0, 1000)] = 0
    solve: bool = True
    inPlace: bool = False
