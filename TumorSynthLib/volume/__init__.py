"""Images with their geometry: reading, checking and writing; `Region` and `Patch` are at hand here too.

Arrays are (K, J, I) = (z, y, x) as in SimpleITK; positions, spacings and sizes are (x, y, z), LPS millimetres.
"""

from TumorSynthLib.region import Patch, Region
from TumorSynthLib.resampling import bounding_box, resample_like_pyradiomics
from TumorSynthLib.volume.files import check_folder, check_output, read_image, write_volume
from TumorSynthLib.volume.masks import MASK_OUTSIDE, among_others, read_labelmap, read_mask
from TumorSynthLib.volume.types import SAME_GRID, Volume, check_image, check_mask

__all__ = [
    "MASK_OUTSIDE",
    "SAME_GRID",
    "Patch",
    "Region",
    "Volume",
    "among_others",
    "bounding_box",
    "check_folder",
    "check_image",
    "check_mask",
    "check_output",
    "read_image",
    "read_labelmap",
    "read_mask",
    "resample_like_pyradiomics",
    "write_volume",
]
