"""Shape of a tumour: draw or change one so that it has the asked shape features."""

from .model import Shape, ShapeModel
from .surface import Surface

__all__ = ["Shape", "ShapeModel", "Surface"]
