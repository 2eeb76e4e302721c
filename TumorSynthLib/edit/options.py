"""The one table of an edit's options: `EditRequest`, whose fields carry their row.

Everything else about options is derived from it: the checks of values, the flags of the command line, the errors for options
that an edit doesn't have, what goes to the worker and into the record, what a repetition takes from it, and what Slicer's module
accepts. A new option is one field here and the code that reads it. Standard library only, so that `tumorsynth --help` answers at
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from TumorSynthLib.edit.edits import EDITS, names
from TumorSynthLib.engines import ENGINES
from TumorSynthLib.errors import InputError
from TumorSynthLib.numeric import is_finite

if TYPE_CHECKING:
    import numpy as np

    from TumorSynthLib.volume import Volume

FARTHEST_MM = 1e6  # of a place: no scanner's coordinates go beyond a few metres
MARGIN_MM = 20.0  # of the mass effect without a number: far enough for a tumour of twice the volume
KINDS = ("number", "whole", "switch", "choice", "text", "point", "features", "donor", "mask", "box")
IMAGES = ("donor", "mask")  # kinds whose voxels go by files, and into the record as a hash or not at all

_CHANGES = names(changes=True)
_ON_TUMOUR = names(changes=True, mask=True)
_DRAWN = ("synthesize", "retexture", "reshape", "move", "insert", "series")
_CLEARED = ("remove", "reshape", "move", "series")
_PLACED = ("reshape", "move", "insert", "series", "shape")


@dataclass(frozen=True)
class Option:
    """One row of the table.

    :param kind: one of `KINDS`. :param unit: of a number. :param low, high: limits, both allowed.
    :param edits: which have the option. :param engines: which use it; empty is all of them.
    :param flag: on the command line; "" is none. :param metavar: in its help. :param bare: value of the flag without a number.
    :param slicer: its name in Slicer's module; "" is none.
    :param always: the record tells of it also where it asks for nothing.
    :param words: that a point may be instead of three numbers.
    :param labels: of a mask: "one" is chosen by FLAG-label, "all" takes all that isn't zero.
    """

    kind: str
    help: str
    edits: tuple[str, ...]
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    flag: str = ""
    metavar: str = ""
    bare: float | None = None
    slicer: str = ""
    always: bool = False
    labels: str = "one"
    words: tuple[str, ...] = ()
    name: str = ""
    default: Any = None

    def check(self, value: Any) -> None:
        """Raise InputError for a value that the option can't have; None is always allowed where it is the default."""
        if value is None and self.default is None:
            return
        if not _CHECKS[self.kind](self, value):
            raise InputError(f"{self.title} is {_shown(value)}, but must be {self.wanted}")

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def wanted(self) -> str:
        """What a value has to be, in words."""
        if self.kind in ("number", "whole"):
            whole = "a whole number" if self.kind == "whole" else "a number"
            unit = f" of {self.unit}" if self.unit else ""
            return (
                f"{whole}{unit} from {self.low:g} to {self.high:g}"
                if self.high < 2**53
                else f"{whole} from {self.low:g}"
            )
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        return ", or ".join([_WANTED[self.kind], *self.words])

    def given(self, value: Any) -> bool:
        """Whether a value isn't the default."""
        return value is not None and (self.default is None or value != self.default)

    def asks(self, value: Any) -> bool:
        """Whether a value asks for something: it isn't the default, and no switch that is off."""
        return self.given(value) and not (self.kind == "switch" and not value)

    def encode(self, value: Any) -> Any:
        """A value as JSON knows it; of an image there is none."""
        if value is None or self.kind in IMAGES:
            return None
        if self.kind == "point":
            return value if isinstance(value, str) else [float(v) for v in value]
        if self.kind == "box":
            return [[int(s.start), int(s.stop)] for s in value]
        return _PLAIN[self.kind](value)

    def decode(self, value: Any) -> Any:
        """The inverse of `encode`.

        :raises InputError: it isn't what `encode` makes.
        """
        try:
            if value is not None and self.kind == "point" and value not in self.words:
                return tuple(float(v) for v in value)
            if value is not None and self.kind == "box":
                return tuple(slice(int(a), int(b)) for a, b in value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{self.title} is {_shown(value)}, but must be {self.wanted}") from None
        return value


def option(default: Any, kind: str, help: str, edits: tuple[str, ...], **more: Any) -> Any:
    """A field of `EditRequest` with its row; see `Option`."""
    return field(default=default, metadata={"option": Option(kind, help, edits, default=default, **more)})


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One edit, complete: by one version on one kind of machine, the same request on the same image gives the same voxels.

    :param features: feature (pyradiomics' name or a driver's, e.g. `intensity_sd`) to value; any subset, the rest is free.
    :param donor: image and mask (K, J, I) whose texture is taken; `features` override single ones.
    :param modality: one of the model's; None finds it from the intensities.
    :param region: which of the model's regions is painted, where it has several; the mask is then a labelmap.
    :param steps: evaluations of the network; None is the model's own choice.
    :param eta: noise of the sampler, 0 (deterministic) to 1 (the paper's); None is the model's own choice.
    :param samples: how many are drawn; the one nearest to the request is used.
    :param solve: let the solver move the sample until the asked features hold.
    :param to: where `move` and `reshape` put the tumour's centre of mass, (x, y, z) LPS mm.
    :param at: where `insert` and `shape` put it, (x, y, z) LPS mm.
    :param nearest: take the nearest place where the tumour fits, if it doesn't fit at the asked one.
    :param inside: (K, J, I) bool, an organ that the tumour must stay in.
    :param grow: mm by which the mask is widened where the old tumour is removed, so that a rim of it outside its contour
        goes too; None is 0 for the bridge, and as far as the tumour shows for exemplars.
    :param zone: mm around what is removed, `grow` included, in which the tissue may change; None is 2 in lung and 5 elsewhere.
    :param strict: no voxel outside the mask changes.
    :param lend: (K, J, I) bool, tissue is taken from there only; `avoid`: it neither lends nor changes (other tumours;
        `edit.regions.other_labels` reads those of a mask's file).
    :param strength: how far the voxels of a tumour that is there may be moved for features, in 4 local standard deviations,
        and the share of its noise that is made stronger with its structure; 0: seven numbers only, 1: drawn anew.
        None is 0.3 for `retexture` and without a model, and else 1.
    :param reachable: find how far each asked feature could go, too, by the tumour's own tissue.
    :param priority: "look": a donor lends its tissue; "features": its contour's features are drawn until they are reached. None
        is "look" for `retexture`, and else "features".
    :param engine: "bridge" or "exemplar"; None chooses (see `edit.plan.choose_engine`).
    :param mass_effect: mm around the tumour within which the tissue makes room for it; 0: nothing around it moves.
    :param core: share of the volume of a mask drawn by `shape` that is its core, with a label of its own; 0: none.
    :param texture_from: whether a moved tumour keeps its "own" voxels, or is drawn anew, with a "donor"'s features or those of
        the "request"; None: its own, unless there is a donor. A repetition says it, as it is given a donor's features alone.
    :param window: box (slices into the (K, J, I) array) that the model sees at least. A series gives it to all its steps,
        whose random numbers then lie at the same places.
    """

    features: Mapping[str, float] | None = option(
        None, "features", "ask for the features of a file that `extract --json` wrote, or for single ones",
        (*_DRAWN, "shape"), flag="--features", slicer="features",
    )  # fmt: skip
    donor: tuple[Volume, np.ndarray] | None = option(
        None,
        "donor",
        "another tumour whose texture is taken: its image and its mask",
        _DRAWN,
        flag="--donor",
        slicer="donor",
    )
    modality: str | None = option(
        None, "text", "what IMAGE is, e.g. CT, MR, or T1 where the model knows it (default: as its header or its values say)",
        (*_CHANGES, "measure", "shape"), flag="--modality", metavar="NAME", slicer="modality",
    )  # fmt: skip
    seed: int = option(
        0, "whole", "the same number gives the same result, another number another one (default: 0)",
        (*_CHANGES, "shape"), low=0, high=2**63 - 1, flag="--seed", metavar="N", always=True, slicer="seed",
    )  # fmt: skip
    steps: int | None = option(
        None, "whole", "how often the network is run for a tumour (default: as the model says; in the paper: 200)",
        _CHANGES, low=1, high=1000, engines=("bridge",), flag="--steps", metavar="N", always=True, slicer="steps",
    )  # fmt: skip
    eta: float | None = option(
        None, "number", "how much chance is in the network's sampling, 0 to 1 (default: as the model says; in the paper: 1)",
        _CHANGES, low=0, high=1, engines=("bridge",), flag="--eta", metavar="E", always=True, slicer="eta",
    )  # fmt: skip
    samples: int = option(
        1, "whole", "draw N tumours and keep the one nearest to what is asked for (default: 1)",
        _DRAWN, low=1, high=64, engines=("bridge",), flag="--samples", metavar="N", always=True, slicer="samples",
    )  # fmt: skip
    solve: bool = option(
        True, "switch", "adjust the voxels until the features asked for are reached (default: yes)", (*_DRAWN, "shape"),
        flag="--solve", always=True, slicer="solve",
    )  # fmt: skip
    to: tuple[float, float, float] | None = option(
        None,
        "point",
        "the tumour's new centre: x y z in mm, LPS",
        ("reshape", "move"),
        flag="--to",
        slicer="to",
    )
    at: tuple[float, float, float] | str | None = option(
        None, "point", "the new tumour's centre: x y z in mm, LPS; or auto: a place with little structure, chosen by --seed",
        ("insert", "shape"), flag="--at", words=("auto",), slicer="to",
    )  # fmt: skip
    nearest: bool = option(
        False, "switch", "if the tumour doesn't fit there, put it at the nearest place where it does", _PLACED, flag="--nearest",
        always=True, slicer="nearest",
    )  # fmt: skip
    inside: np.ndarray | None = option(
        None,
        "mask",
        "mask of the organ that the tumour must stay in (default: the body)",
        _PLACED,
        flag="--inside",
        slicer="inside",
    )
    grow: float | None = option(
        None, "number",
        "remove so much around the mask, too (default: as far as the tumour can be seen; 0 where the network draws)",
        _CLEARED, unit="mm", low=0, high=10, flag="--grow", always=True, slicer="grow",
    )  # fmt: skip
    zone: float | None = option(
        None, "number",
        "how far beyond --grow the tissue may change, so that no edge shows (default: 2 in lung, 5 elsewhere)",
        _CLEARED, unit="mm", low=0, high=20, engines=("exemplar",), flag="--zone", slicer="zone",
    )  # fmt: skip
    strict: bool = option(
        False,
        "switch",
        "change no voxel outside the mask",
        _CLEARED,
        engines=("exemplar",),
        flag="--strict",
        slicer="strict",
    )
    lend: np.ndarray | None = option(
        None, "mask", "mask of the only place that healthy tissue is copied from, e.g. the organ",
        _CLEARED, engines=("exemplar",), flag="--lend", slicer="lend",
    )  # fmt: skip
    avoid: np.ndarray | None = option(
        None, "mask", "mask of other tumours (all labels): neither copied nor changed, as what lies beside --label in MASK",
        (*_CLEARED, "insert"), labels="all", flag="--avoid", slicer="avoid",
    )  # fmt: skip
    strength: float | None = option(
        None, "number",
        "how much of a tumour that is there may change: 0 is least, 1 draws it anew (default: 0.3 if features are asked for)",
        ("synthesize", "retexture", "series"), low=0, high=1, engines=("exemplar",), flag="--strength", metavar="S",
        slicer="strength",
    )  # fmt: skip
    reachable: bool = option(
        False, "switch", "also tell the lowest and highest value that the tumour's own tissue allows for each feature asked for",
        ("synthesize", "retexture"), engines=("exemplar",), flag="--reachable", slicer="reachable",
    )  # fmt: skip
    priority: str | None = option(
        None, "choice", "what a donor is for: look (its tissue is used; default) or features (a tumour is drawn that has them)",
        ("synthesize", "retexture"), choices=("look", "features"), flag="--priority", slicer="priority",
    )  # fmt: skip
    engine: str | None = option(
        None, "choice",
        "exemplar copies tissue from the image or a donor, bridge is the model's network (default: what suits the edit)",
        _CHANGES, choices=tuple(ENGINES), flag="--engine", slicer="engine",
    )  # fmt: skip
    mass_effect: float = option(
        0.0, "number",
        f"push the tissue around the tumour aside, within so much (without a number: {MARGIN_MM:g}; default: not at all)",
        ("reshape", "move", "insert", "series"), unit="mm", low=0, high=60, flag="--mass-effect", bare=MARGIN_MM,
        always=True, slicer="massEffect",
    )  # fmt: skip
    window: tuple[slice, ...] | None = option(None, "box", "", _ON_TUMOUR)
    texture_from: str | None = option(
        None, "choice", "", ("move", "reshape"), choices=("own", "donor", "request")
    )
    region: str | None = option(
        None, "text", "which of the model's regions is meant, if it has several; MASK then has a label for each",
        ("synthesize", "retexture", "remove", "measure"), flag="--region", metavar="NAME",
    )  # fmt: skip
    core: float = option(
        0.0, "number", "give the mask a core of this share of its volume, e.g. 0.3: the rim has label 1, the core 2", ("shape",),
        low=0, high=0.999, flag="--core", metavar="SHARE",
    )  # fmt: skip

    def __post_init__(self):
        for name, row in OPTIONS.items():
            row.check(getattr(self, name))

    def asked(self) -> dict[str, Any]:
        """The options that ask for something."""
        return {n: getattr(self, n) for n, row in OPTIONS.items() if row.asks(getattr(self, n))}

    def options(self, edit: str | None = None) -> dict[str, Any]:
        """The request without images and features, as JSON, for the record: what is asked, and what is always told."""
        kept = {}
        for name, row in OPTIONS.items():
            value = getattr(self, name)
            if row.kind in (*IMAGES, "features") or name == "modality":  # the record has them elsewhere
                continue
            if row.asks(value) or (row.always and (edit is None or edit in row.edits)):
                kept[name] = row.encode(value)
        return kept


def _numeric(row: Option, value: Any) -> bool:
    return is_finite(value) and not _is_switch(value) and row.low <= value <= row.high


def _is_switch(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")


def _is_point(row: Option, value: Any) -> bool:
    if isinstance(value, str):
        return value in row.words
    try:
        return len(value) == 3 and all(is_finite(v) and abs(v) <= FARTHEST_MM for v in value)
    except TypeError:
        return False


_CHECKS: dict[str, Callable[[Option, Any], bool]] = {
    "number": _numeric,
    "whole": lambda row, v: hasattr(v, "__index__") and _numeric(row, v),
    "switch": lambda row, v: _is_switch(v),
    "choice": lambda row, v: v in row.choices,
    "text": lambda row, v: isinstance(v, str),
    "point": _is_point,
    "features": lambda row, v: isinstance(v, Mapping),
    "donor": lambda row, v: isinstance(v, (tuple, list)) and len(v) == 2,
    "mask": lambda row, v: getattr(v, "ndim", 0) == 3,
    "box": lambda row, v: isinstance(v, tuple) and len(v) == 3 and all(isinstance(s, slice) for s in v),
}
_WANTED = {
    "switch": "yes or no (true or false)",
    "text": "a name",
    "point": "three numbers (x y z in LPS mm)",
    "features": "names with their values",
    "donor": "an image and its mask",
    "mask": "a mask of three dimensions",
    "box": "three slices",
}
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "number": float,
    "whole": int,
    "switch": bool,
    "choice": str,
    "text": str,
    "features": lambda value: {str(name): float(v) for name, v in value.items()},
}


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _rows() -> dict[str, Option]:
    from dataclasses import replace

    return {f.name: replace(f.metadata["option"], name=f.name) for f in fields(EditRequest)}


#: Name to row, in the order of `EditRequest`.
OPTIONS: dict[str, Option] = _rows()


def of_edit(edit: str) -> dict[str, Option]:
    """The options that an edit has."""
    return {name: row for name, row in OPTIONS.items() if edit in row.edits}


def check_used(edit: str, request: EditRequest, called: str = "") -> None:
    """Raise InputError for an option that asks for something which the edit doesn't have.

    :param called: how the edit is named in the message.
    """
    for name in request.asked():
        if edit not in OPTIONS[name].edits:
            having = [e for e in OPTIONS[name].edits if EDITS[e].command]
            raise InputError(
                f"{called or edit} has no option {name!r}, only {', '.join(having)}: leave it out"
            )


def unused(request: EditRequest, engine: str) -> tuple[str, ...]:
    """Options that ask for something which the engine doesn't use."""
    return tuple(n for n in request.asked() if OPTIONS[n].engines and engine not in OPTIONS[n].engines)


def unused_text(engine: str, names: Sequence[str]) -> str:
    """One line on options that ask for something which the engine doesn't use."""
    return f"the engine {engine} doesn't use {', '.join(OPTIONS[n].flag or n for n in names)}, which changed nothing"


def from_message(given: Mapping[str, Any], image: Callable[[Option, Any], Any]) -> EditRequest:
    """The request in a message to the worker, or in another one's JSON.

    :param given: option to value, as `Option.encode` makes it; images as entries of the exchange.
    :param image: turns an option and its entry into what the request holds.
    :raises InputError: there is no such option, or its value is impossible.
    """
    unknown = [name for name in given if name not in OPTIONS]
    if unknown:
        raise InputError(
            f"the engine has no option {', '.join(map(repr, unknown))}: it knows {', '.join(sorted(OPTIONS))}"
        )
    found = {}
    for name, value in given.items():
        row = OPTIONS[name]
        if value is None and row.default is not None:
            continue
        found[name] = image(row, value) if value is not None and row.kind in IMAGES else row.decode(value)
    return EditRequest(**found)


def to_message(
    request: EditRequest, image: Callable[[Option, Any], Any] = lambda row, value: None
) -> dict[str, Any]:
    """The inverse of `from_message`: what asks for something, as JSON.

    :param image: makes the entry of an image; not needed where the request holds none.
    """
    given = {n: getattr(request, n) for n, row in OPTIONS.items() if row.given(getattr(request, n))}
    return {
        n: image(OPTIONS[n], v) if OPTIONS[n].kind in IMAGES else OPTIONS[n].encode(v)
        for n, v in given.items()
    }


def recorded(request: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `EditRequest` that a record's request holds; options that this version doesn't know are left out."""
    return {
        name: OPTIONS[name].decode(value)
        for name, value in request.items()
        if name in OPTIONS and OPTIONS[name].kind not in (*IMAGES, "features") and value is not None
    }
