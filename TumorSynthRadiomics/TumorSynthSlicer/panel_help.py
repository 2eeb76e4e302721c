"""Section Help: how to work, which keys, where to read more."""

from slicer.i18n import tr as _


def helpText() -> str:
    """Rich text for the section."""
    parts = [
        _(
            "Choose a volume and the tumour's segment; its features are measured. "
            "Choose an edit, say what is to change, and press Generate."
        ),
        _(
            "The strip below a slider shows the model's tumours: half of them lie in the dark part, "
            "nine in ten in the light one. The dot is your tumour; the bracket, which appears after some seconds, shows how far "
            "its own tissue can be taken."
        ),
        _(
            "Keep: as measured. Free: whatever fits the rest. Set: the value of the slider. If no tumour can have "
            "all that is asked, the nearest possible one is made, and the table shows what was reached; σ is the "
            "standard deviation among the model's tumours."
        ),
        _(
            "Another texture changes voxels inside the outline only. Removing, moving, and another shape also change a "
            "narrow rim around it; the result says how much. Undo brings each voxel back."
        ),
        _("Nothing leaves this computer. Models are downloaded only when you ask for it."),
    ]
    keys = [
        ("Ctrl+Enter", _("Generate")),
        ("Esc", _("Cancel")),
        ("Ctrl+Z", _("Undo")),
        ("Ctrl+Y", _("Redo")),
    ]
    rows = "".join(f"<tr><td>{key}&nbsp;&nbsp;</td><td>{text}</td></tr>" for key, text in keys)
    return "".join(f"<p>{part}</p>" for part in parts) + f"<table>{rows}</table>"
