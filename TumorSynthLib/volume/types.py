"""Images and their geometry, and what every image and mask has to be.

Arrays are (K, J, I) = (z, y, x) as in SimpleITK; positions, spacings and sizes are (x, y, z), LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk

from TumorSynthLib.errors import InputError

SAME_GRID = 0.01
"""Voxels that two grids may differ by at their corners; NIfTI keeps positions as 32-bit numbers only."""

RIGHT_ANGLE = 2e-3
"""Largest product of two axes' directions that counts as rounding; 0.1 degrees."""

MAX_EXTENT_MM, MIN_EXTENT_MM = 1e4, 0.5
"""No scanner's image is longer, or shorter along its longest axis: its lengths are in another unit than mm."""

MAX_POSITION_MM = 1e6

FILE_KEYS = ("ITK_", "NRRD_")
"""Beginnings of the fields that ITK adds to a header for itself."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image of one value per voxel.

    :param array: (K, J, I) values in the file's type.
    :param spacing: (x, y, z) mm.
    :param origin: (x, y, z) LPS mm, centre of the first voxel.
    :param direction: 9 numbers, row-major; column n is the direction of axis n (x, y, z) in LPS.
    :param metadata: text fields of the file's header.
    :param nifti_header: header of the NIfTI file it was read from, so that writing keeps its geometry to the bit.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    metadata: dict[str, str] = field(default_factory=dict)
    nifti_header: bytes = field(default=b"", repr=False)

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Volume:
        """Volume of a SimpleITK image (values copied)."""
        metadata = {}
        for key in image.GetMetaDataKeys():
            if not key.startswith(FILE_KEYS):
                metadata[key] = image.GetMetaData(key)
        array = sitk.GetArrayFromImage(image)
        return cls(array, image.GetSpacing(), image.GetOrigin(), image.GetDirection(), metadata)

    def sitk(self) -> sitk.Image:
        """SimpleITK image of the volume (values copied), without its metadata."""
        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(s) for s in self.spacing])
        image.SetOrigin([float(s) for s in self.origin])
        image.SetDirection([float(s) for s in self.direction])
        return image

    def with_array(self, array: np.ndarray) -> Volume:
        """The same geometry and metadata with other values of the same shape."""
        if array.shape != self.array.shape:
            raise ValueError(f"array has shape {array.shape}, the volume {self.array.shape}")
        return replace(self, array=array)

    def volume_of(self, mask: np.ndarray) -> float:
        """mm³ of a mask (K, J, I)."""
        return float(np.count_nonzero(mask) * np.prod(self.spacing))

    @property
    def size(self) -> tuple[int, int, int]:
        """(x, y, z) voxels."""
        return self.array.shape[::-1]

    @property
    def modality(self) -> str:
        """Modality as the DICOM header says, "CT" or "MR"; "" where nothing says so."""
        return self.metadata.get("0008|0060", "").strip()

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) matrix from index steps (x, y, z) to LPS millimetres."""
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3) * np.asarray(
            self.spacing, dtype=np.float64
        )

    def points(self, index: np.ndarray) -> np.ndarray:
        """(…, 3) LPS positions of (…, 3) continuous indices (x, y, z)."""
        return np.asarray(index, dtype=np.float64) @ self.matrix.T + np.asarray(self.origin)

    def indices(self, points: np.ndarray) -> np.ndarray:
        """(…, 3) continuous indices (x, y, z) of (…, 3) LPS positions."""
        return (np.asarray(points, dtype=np.float64) - np.asarray(self.origin)) @ np.linalg.inv(self.matrix).T

    def same_grid(self, other: Volume) -> bool:
        """True where both have the same voxels in space, up to 1 % of a voxel."""
        if self.array.shape != other.array.shape:
            return False
        ends = corners([(0, n - 1) for n in self.size])
        return bool(np.abs(other.indices(self.points(ends)) - ends).max() <= SAME_GRID)


def check_image(volume: Volume, name: str = "the image") -> None:
    """Raise InputError unless the volume is 3-D, of real numbers, finite, and has a usable geometry."""
    array = volume.array
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(
            f"{name} is {array.ndim}-D (shape {array.shape}), but a 3-D image is needed: save one volume"
        )
    if array.dtype.kind not in "iufb":
        raise InputError(
            f"{name} holds {array.dtype} values, but an image of real numbers is needed: convert it"
        )
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise InputError(
            f"{name} has {bad} voxels that are NaN or infinite: replace them, e.g. by the background value"
        )
    geometry = np.concatenate([volume.spacing, volume.origin, volume.direction]).astype(float)
    if (
        not np.isfinite(geometry).all()
        or min(volume.spacing) <= 0
        or abs(np.linalg.det(volume.matrix)) < 1e-12
    ):
        raise InputError(f"{name} has no usable geometry (spacing {volume.spacing}): repair its header")
    if not orthogonal(np.asarray(volume.direction, np.float64).reshape(3, 3)):
        raise InputError(
            f"{name} is sheared: its axes aren't at right angles; resample it to a grid with right angles"
        )
    longest = max(n * s for n, s in zip(volume.size, volume.spacing))
    if not MIN_EXTENT_MM <= longest <= MAX_EXTENT_MM or max(map(abs, volume.origin)) > MAX_POSITION_MM:
        raise InputError(
            f"{name} would be {longest:.3g} mm long at {max(map(abs, volume.origin)):.3g} mm: its header gives lengths in "
            "another unit, or is damaged; save it in mm"
        )


def check_mask(mask: np.ndarray, volume: Volume, name: str = "the mask") -> np.ndarray:
    """The mask as bool, checked to fit the volume's grid and not to be empty.

    :raises InputError: other shape, or empty.
    """
    if mask.shape != volume.array.shape:
        raise InputError(
            f"{name} has {mask.shape[::-1]} voxels but the image {volume.size}: "
            "read it with read_mask, which brings it to the image's grid"
        )
    mask = mask if mask.dtype == bool else mask != 0
    if not mask.any():
        raise InputError(f"{name} is empty: draw the tumour first, or give another label")
    return mask


def corners(ranges) -> np.ndarray:
    """(8, 3) corners of a box given as three (low, high) pairs."""
    return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float64)


def orthogonal(direction: np.ndarray) -> bool:
    """Whether the columns of a (3, 3) matrix are of length 1 and at right angles, up to rounding in headers."""
    return bool(np.abs(direction.T @ direction - np.eye(3)).max() <= RIGHT_ANGLE)
