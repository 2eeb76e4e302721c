"""The edits, named once: what each is called, what it needs and what it can be asked for. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One edit.

    :param does: one sentence for the help of the command line.
    :param mask: it needs the mask of a tumour. :param place: the option without which it can't be done; "" is none.
    :param texture, shape: it can be asked for features of that kind. :param draws: it always draws a new shape.
    :param changes: it changes voxels of an image; the worker and Slicer's module offer it as an edit.
    :param model: it can't be done without a model.
    :param command: the command line has a command of that name.
    """

    name: str
    does: str
    mask: bool = True
    place: str = ""
    texture: bool = True
    shape: bool = False
    draws: bool = False
    changes: bool = True
    command: bool = True
    model: bool = True


_ALL = (
    Edit("measure", "Measure the radiomics features of a tumour.", texture=False, changes=False, command=False),
    Edit("remove", "Replace a tumour by healthy tissue.", texture=False, model=False),
    Edit("synthesize", "Draw a tumour with the features you ask for into a mask, or change the one that is there.", model=False),
    Edit("retexture", "Give a tumour another texture; its shape stays.", command=False, model=False),
    Edit("reshape", "Give a tumour another size or shape; its texture and place stay.", shape=True, draws=True),
    Edit("move", "Move a tumour to another place; where shape features are asked for, its shape changes, too.",
         place="to", shape=True, model=False),
    Edit("insert", "Put a new tumour into healthy tissue.", mask=False, place="at", shape=True, draws=True,
         model=False),
    Edit("series", "Change one feature step by step: an image and a mask for each value, a table and pictures.",
         shape=True, model=False),
    Edit("shape", "Draw the mask of a tumour with the shape features you ask for, alone or on the grid of an image.", mask=False,
         texture=False, shape=True, changes=False),
)  # fmt: skip
EDITS = {edit.name: edit for edit in _ALL}


def names(**wanted: bool) -> tuple[str, ...]:
    """The edits with these properties, e.g. ``names(changes=True, mask=True)``."""
    return tuple(e.name for e in _ALL if all(getattr(e, key) == value for key, value in wanted.items()))
