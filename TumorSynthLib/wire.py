"""The messages between a front end and the worker, one type each, used by both ends; as JSON they are lines (see `worker`).

The type of a message is its command or event; what an edit is asked for is in the table of options. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Union

from TumorSynthLib.edit.edits import EDITS, names
from TumorSynthLib.errors import Cancelled, InputError, ModelError, OutOfMemory, TumorSynthError
from TumorSynthLib.exchange import well_formed
from TumorSynthLib.numeric import is_finite

PROTOCOL = 1
CHANGING = names(changes=True)  # edits that `Edit` can ask for
#: What the worker tells of a result, by the names of `EditResult`; beside it box, checksums, change and mask (`Done.results`).
TOLD = ("asked", "used", "reached", "before", "differences", "spread", "timing", "provenance", "warnings")
#: Kind of a failure to its error, special ones first.
KINDS: tuple[tuple[str, type[TumorSynthError]], ...] = (
    ("memory", OutOfMemory), ("cancelled", Cancelled), ("model", ModelError), ("input", InputError),
    ("internal", TumorSynthError),
)  # fmt: skip

Entry = Mapping[str, Any]  # of an image or a mask in the exchange folder (`exchange.Folder`)


@dataclass(frozen=True)
class Edit:
    """Do an edit.

    :param edit: one of `CHANGING`. :param model: "" without one.
    :param request: the options as JSON (`edit.options.to_message`), for a series `feature` and `values`, too.
    :param estimate: seconds that it will take, if there is an estimate.
    """

    command = "edit"
    volume: Entry
    edit: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    mask: Entry | None = None
    model: str = ""
    device: str = "auto"
    estimate: float | None = None

    def __post_init__(self):
        if self.edit not in CHANGING:
            raise InputError(f"this version of the engine can't {_quoted(self.edit)}: update the extension")
        if not self.model and EDITS[self.edit].model:
            raise InputError("the message names no model: choose one")

    @property
    def options(self) -> dict[str, Any]:
        """The request without what only a series has."""
        kept = dict(self.request)
        if self.edit == "series":
            kept.pop("feature", None), kept.pop("values", None)
        return kept

    @property
    def series(self) -> tuple[str | None, list[Any]] | tuple[()]:
        """Feature and values of a series; nothing for other edits."""
        if self.edit != "series":
            return ()
        feature = self.request.get("feature")
        if not isinstance(feature, (str, type(None))):
            raise TypeError(f"feature is a {type(feature).__name__}, no text")
        return feature, list(self.request.get("values") or [])


@dataclass(frozen=True)
class Measure:
    """Measure a tumour; `request` holds modality and region."""

    command = "measure"
    volume: Entry
    mask: Entry
    request: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class Reach:
    """Find how far the tumour's own tissue can take each of some features; a `Range` tells of each. `request` as of `Measure`."""

    command = "reach"
    volume: Entry
    mask: Entry
    names: tuple[str, ...]
    request: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class Preview:
    """The surface of a shape with these features."""

    command = "preview"
    model: str
    features: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Warm:
    """Load a model."""

    command = "warm"
    model: str
    device: str = "auto"


@dataclass(frozen=True)
class Cancel:
    """Stop the request of this id, under way or waiting."""

    command = "cancel"
    id: int | str


Request = Union[Edit, Measure, Reach, Preview, Warm, Cancel]
REQUESTS: dict[str, Any] = {cls.command: cls for cls in (Edit, Measure, Reach, Preview, Warm)}


@dataclass(frozen=True)
class Ready:
    """The worker listens."""

    event = "ready"
    pid: int
    protocol: int
    version: str


@dataclass(frozen=True)
class Progress:
    """A request is under way: fraction of the whole, and seconds that are left, if they can be told."""

    event = "progress"
    id: Any
    stage: str
    fraction: float
    remaining: float | None = None


@dataclass(frozen=True)
class Range:
    """Lowest and highest value of a feature that a `Reach` has found."""

    event = "range"
    id: Any
    feature: str
    low: float
    high: float


@dataclass(frozen=True)
class Done:
    """A request was done.

    :param results: of an edit: `TOLD`, `box`, `checksums`, `change` (a file's name), and `mask` where it isn't the one given.
    :param measurement: see `measurement.measure`. :param vertices, faces: entries of a preview's arrays.
    """

    event = "done"
    id: Any
    device: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    measurement: Mapping[str, Any] | None = None
    vertices: Entry | None = None
    faces: Entry | None = None


@dataclass(frozen=True)
class Failed:
    """A request failed, or a line was none (without an id); `kind` is one of `KINDS`, or "crash" of a worker that is gone."""

    event = "error"
    id: Any
    kind: str
    message: str

    @classmethod
    def of(cls, number: Any, error: TumorSynthError) -> Failed:
        return cls(number, next(kind for kind, cls in KINDS if isinstance(error, cls)), str(error))


Event = Union[Ready, Progress, Range, Done, Failed]
EVENTS: dict[str, Any] = {cls.event: cls for cls in (Ready, Progress, Range, Done, Failed)}


def as_json(message: Request | Event, **more: Any) -> dict[str, Any]:
    """A message as a JSON object; what is empty is left out, but for the id and the remaining seconds.

    :param more: the `id` of a request.
    """
    name = "event" if hasattr(message, "event") else "command"
    values = {f.name: getattr(message, f.name) for f in fields(message)}
    return {
        **more,
        name: getattr(message, name),
        **{k: v for k, v in values.items() if k in ("id", "remaining") or v not in (None, ())},
    }


def request_of(given: Mapping[str, Any]) -> Request:
    """The request in a JSON object.

    :raises InputError: there is no such command, or the object isn't one of its messages.
    """
    command = given.get("command")
    cls = REQUESTS.get(command) if isinstance(command, str) else None
    if cls is None:
        raise InputError(
            f"the worker has no command {_quoted(command)}: this module and its engine don't fit together; restart the "
            "application, or install the extension again"
        )
    with well_formed(f"the command {command!r}"):
        values = {f.name: given[f.name] for f in fields(cls) if given.get(f.name) is not None}
        for name, value in values.items():
            _check(name, value)
        return cls(**values)


def event_of(given: Mapping[str, Any]) -> Event | None:
    """The event in a JSON object; None for one that this version doesn't know. What it tells besides is left out."""
    cls = EVENTS.get(str(given.get("event")))
    if cls is None:
        return None
    values = {f.name: given.get(f.name, f.default) for f in fields(cls) if f.name in given or f.name == "id"}
    return (
        cls(**values) if cls is not Done else cls(**{**values, "results": tuple(values.get("results", ()))})
    )


def _check(name: str, value: Any) -> None:
    """Raise TypeError for a field of another kind."""
    if name in ("volume", "mask", "request", "features"):
        good = isinstance(value, Mapping)
    elif name == "names":
        good = isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)
    elif name in ("model", "device", "edit"):
        good = isinstance(value, str)
    else:
        good = name != "estimate" or is_finite(value)
    if not good:
        raise TypeError(f"{name} is {_quoted(value)}")


def _quoted(value: Any) -> str:
    """For a message; of what is no text only the type is told, since its own text may be long or nested."""
    return repr(value[:40]) if isinstance(value, str) else f"of type {type(value).__name__}"
