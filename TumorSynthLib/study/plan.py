"""A table of cases and edits as jobs: plain values that go to another process or machine as JSON.

A CSV file has a row for each case and edit. A YAML or JSON file has `jobs`, a list of such rows, or `cases` and `edits`, each of
which is done to each case; `defaults` go into every row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.options import IMAGES, OPTIONS, Option, of_edit
from TumorSynthLib.errors import InputError
from TumorSynthLib.small_files import read_small

AUTO = "auto"  # as a model: the one that suits
EXTRACT = "extract"  # the edit that changes nothing: features are measured
DONE_BY_BATCH = (EXTRACT, *(e.name for e in EDITS.values() if e.changes and e.name != "series"))
MAX_BYTES = 64 * 2**20  # of a table; 100,000 rows have 20 MB
MAX_JOBS = 1_000_000
#: Columns of a table beside the options of edits.
COLUMNS = (
    "id",
    "patient",
    "name",
    "image",
    "mask",
    "label",
    "edit",
    "options",
    "model",
    "settings",
    "donor_image",
    "donor_mask",
    *(f"{row.name}_label" for row in OPTIONS.values() if row.kind in IMAGES),
)
_NAME = re.compile(r"\w[\w.-]{0,119}")
_SEPARATORS = ",;\t"
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Job:
    """One edit of one case, complete.

    :param id: of the case; `patient`: whose case it is, so that all of a patient's stay together in splits.
    :param name: of the files that it writes, without ending; "" takes `id`, `edit` and the first digits of the key.
    :param image, mask, settings: absolute paths; `settings` is the parameter file of an extraction without a model.
    :param label: of the tumour in the mask, by number or name.
    :param options: the request as JSON (`edit.options.to_message`), images as {"image": …, "mask": …, "label": …} of files.
    :param model: folder of the model, or its id; `model_sha256` of its manifest, which holds the hashes of all its files.
    """

    id: str
    patient: str
    edit: str
    image: str
    mask: str | None
    label: int | str | None
    options: Mapping[str, Any]
    model: str = ""
    model_id: str = ""
    model_sha256: str = ""
    settings: str | None = None
    name: str = ""

    @cached_property
    def key(self) -> str:
        """Identity: the same for the same edit with the same model of the same files, wherever the model lies."""
        content = {k: v for k, v in self._content().items() if k not in ("model", "name", "patient")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def stem(self) -> str:
        """Name of its files without ending."""
        return self.name or f"{self.id}_{self.edit}_{self.key[:8]}"

    def to_json(self) -> str:
        """One line that `from_json` reads back."""
        return json.dumps(self._content())

    def _content(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def read_plan(path: str | Path, model: str | None = None) -> tuple[Job, ...]:
    """The jobs of a table, each once, in its order.

    :param path: CSV (separated by comma, semicolon or tab), YAML or JSON; paths in it are relative to its folder.
    :param model: id or folder of a model, for rows that name none.
    :raises InputError: the table can't be read, or a row can't be meant; the message names the row.
    :raises ModelError: there is no such model.
    """
    path = Path(path)
    folder = str(path.resolve().parent)
    models: dict = {}
    found: dict[str, Job] = {}
    stems: dict[str, str] = {}
    for where, row in _rows(path):
        try:
            for job in _jobs(row, folder, model, models):
                if stems.setdefault(job.stem.lower(), job.key) != job.key:
                    raise InputError(f"two jobs would write files named {job.stem}: give each its own name")
                found.setdefault(job.key, job)
        except InputError as error:
            raise InputError(f"{path}, {where}: {error}") from None
        if len(found) > MAX_JOBS:
            raise InputError(f"{path} has more than {MAX_JOBS:,} jobs: split it")
    if not found:
        raise InputError(f"{path} has no rows: give a table with the columns id, image, mask and edit")
    return tuple(found.values())


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row stands, and its values by column."""
    text = _text(path)
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        yield from _structured(_parsed(text, path), path)
        return
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    above = 0
    while above + 1 < len(lines) and re.fullmatch(
        r"(sep=.)?\s*", lines[above]
    ):  # as Excel writes above a table
        above += 1
    first = lines[above]
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.DictReader(
        io.StringIO("\n".join(lines[above:])), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = [name.lower() if name.lower() in COLUMNS else name for name in columns]
        twice = [name for name, n in Counter(reader.fieldnames).items() if n > 1 and name]
        if twice:
            raise InputError(f"{path} has the column {twice[0][:60]!r} twice: leave one of them out")
        if "image" not in reader.fieldnames:
            raise InputError(
                f"{path} has no column 'image': give a CSV, YAML or JSON table of cases and edits"
            )
        for row in reader:
            if None in row:
                raise InputError(
                    f"{path}, line {above + reader.line_num}: more cells than columns; put cells with commas in quotes"
                )
            given = {k: v.strip() for k, v in row.items() if k is not None and v is not None and v.strip()}
            if given:
                yield f"line {above + reader.line_num}", given
    except csv.Error as error:
        raise InputError(f"{path}, line {above + reader.line_num}: {error}") from None


def _text(path: Path) -> str:
    data = read_small(path, MAX_BYTES, "a table of cases and edits")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the table {path} is not UTF-8 text ({error}): save it as UTF-8") from None


def _parsed(text: str, path: Path) -> Any:
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON: {error}") from None
    try:
        import yaml
    except ImportError:
        raise InputError(
            "a YAML table needs the package PyYAML: `pip install PyYAML`, or give CSV or JSON"
        ) from None
    try:
        return yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _each_once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of a file, in which no name stands twice.

    :raises ValueError: one does.
    """
    twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if twice:
        raise ValueError(f"it has {str(twice[0])[:60]!r} twice in one place")
    return dict(pairs)


@cache
def _yaml_loader() -> Any:
    """YAML's safe loader, which also refuses names that stand twice in one mapping."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            try:
                plain = [k for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"]
                _each_once([(k.value, None) for k in plain if isinstance(k.value, str)])
            except ValueError as error:
                raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None
            return super().construct_mapping(node, deep)

    return Loader


def _structured(content: Any, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of `jobs`, or of `cases` times `edits`."""
    parts = ("defaults", "jobs", "cases", "edits")
    if not isinstance(content, Mapping) or not set(content) <= set(parts):
        raise InputError(
            f"{path} must hold 'jobs', or 'cases' and 'edits', and perhaps 'defaults', and nothing else"
        )
    lists = {name: _mappings(content.get(name) or [], name, path) for name in parts[1:]}
    defaults = _mappings([content.get("defaults") or {}], "defaults", path)[0]
    if lists["cases"] and not lists["edits"]:
        raise InputError(f"{path} has cases but no edits: name at least one, such as edit: remove")
    for i, row in enumerate(lists["jobs"], 1):
        yield f"job {i}", _merged(defaults, row)
    for i, case in enumerate(lists["cases"], 1):
        for k, edit in enumerate(lists["edits"], 1):
            yield f"case {i}, edit {k}", _merged(defaults, case, edit)


def _mappings(rows: Any, name: str, path: Path) -> list[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(f"{path}: '{name}' must hold names with their values")
    return rows


def _merged(*rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows in one, later ones first; options are merged by name."""
    merged: dict[str, Any] = {}
    for row in rows:
        options = {**_options_cell(merged.get("options")), **_options_cell(row.get("options"))}
        merged = {**merged, **row, **({"options": options} if options else {})}
    return merged


def _jobs(
    row: Mapping[str, Any], folder: str, model: str | None, models: dict[str, tuple[str, str, str]]
) -> Iterator[Job]:
    """A row's jobs: one for each of its seeds."""
    known = (*COLUMNS, *OPTIONS)
    for name in row:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            raise InputError(
                f"there is no column {str(name)[:60]!r}" + (f": is it {near[0]}?" if near else "")
            )
    edit = str(row.get("edit") or "")
    if edit not in DONE_BY_BATCH:
        raise InputError(f"there is no edit {edit[:60]!r}: use one of {', '.join(DONE_BY_BATCH)}")
    if not row.get("image") or (not row.get("mask") and (edit == EXTRACT or EDITS[edit].mask)):
        raise InputError(f"{edit} needs an image" + (" and a mask" if row.get("image") else ""))
    identity = str(row.get("id") or _stem(row["image"]))
    for name in (identity, str(row.get("patient") or identity), str(row.get("name") or identity)):
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name[:60]!r} can't name a file: use letters, digits, _ . and -, and at most 120 of them"
            )
    options, seeds = _options(row, edit, folder)
    asked_model = str(row.get("model") or model or ("" if edit == EXTRACT else AUTO))
    settings = row.get("settings")
    if settings and (edit != EXTRACT or row.get("model")):
        raise InputError("settings are for extract without a model: leave one of them out")
    if settings:
        asked_model = ""
    if asked_model == AUTO:
        asked_model = _suited(row, edit, options, folder)
    where, model_id, sha256 = _model(asked_model, models) if asked_model else ("", "", "")
    for seed in seeds:
        yield Job(
            id=identity,
            patient=str(row.get("patient") or identity),
            edit=edit,
            image=_path(row["image"], folder),
            mask=_path(row["mask"], folder) if row.get("mask") else None,
            label=_label(row.get("label")),
            options=options | ({"seed": seed} if seed is not None else {}),
            model=where,
            model_id=model_id,
            model_sha256=sha256,
            settings=_path(settings, folder) if settings else None,
            name=str(row.get("name") or "") + (f"_s{seed}" if row.get("name") and len(seeds) > 1 else ""),
        )


def _suited(row: Mapping[str, Any], edit: str, options: Mapping[str, Any], folder: str) -> str:
    """The installed model that suits a row's image and tumour.

    :raises InputError: there is none.
    """
    from types import SimpleNamespace

    from TumorSynthLib.commands import model_of
    from TumorSynthLib.volume import read_image

    image, mask = _path(row["image"], folder), _path(row["mask"], folder) if row.get("mask") else None
    asked = SimpleNamespace(
        model=AUTO, image=image, mask=mask, label=_label(row.get("label")), command=edit,
        modality=options.get("modality"), at=options.get("at"),
    )  # fmt: skip
    for name in {"inside", "avoid"} & options.keys():
        setattr(asked, name, options[name]["mask"])
        setattr(asked, f"{name}_label", options[name].get("label"))
    found = model_of(asked, None, read_image(image))
    if found is None:
        raise InputError(f"{asked.chosen}: give a column model, or --model")
    return found


def _model(name: str, models: dict[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    """Folder, id and hash of a model, looked up once."""
    if name not in models:
        from TumorSynthLib.models import find

        bundle = find(name)
        models[name] = (str(bundle.folder.resolve()), bundle.id, bundle.sha256)
    return models[name]


def _stem(image: Any) -> str:
    """A case's id from its file: case1.nii.gz is case1."""
    return re.sub(r"[^\w.-]", "_", Path(str(image)).name.split(".")[0])


def _path(value: Any, folder: str) -> str:
    text = str(value)
    return os.path.join(folder, os.path.expanduser(text) if text.startswith("~/") else text)


def _label(value: Any) -> int | str | None:
    """A label, segment or structure, by number or name; 2.0 is 2, as tables with empty cells save it."""
    text = "" if value is None else re.sub(r"^(\d+)\.0+$", r"\1", str(value))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text or None


def _options(row: Mapping[str, Any], edit: str, folder: str) -> tuple[dict[str, Any], Sequence[int | None]]:
    """The options of a row as JSON, and its seeds."""
    given = _given(row)
    for role in ("donor_image", "donor_mask"):
        if row.get(role):
            given.setdefault("donor", {})[role[6:]] = _path(row[role], folder)
    if "donor" in given:
        if not isinstance(given["donor"], Mapping) or set(given["donor"]) - {"label"} != {"image", "mask"}:
            raise InputError("a donor is an image and its mask: give donor_image and donor_mask")
        given["donor"]["label"] = _label(row.get("donor_label"))
    for name in given:
        if OPTIONS[name].kind == "mask":
            given[name] = {"mask": _path(given[name], folder), "label": _label(row.get(f"{name}_label"))}
    seeds = _seeds(given.pop("seed")) if "seed" in given else (None,)
    having = of_edit("measure" if edit == EXTRACT else edit)
    options = {}
    for name, value in given.items():
        if name not in having:
            raise InputError(f"{edit} has no option {name!r}: it has {', '.join(having)}")
        options[name] = value if OPTIONS[name].kind in IMAGES else _value(OPTIONS[name], value)
    if seeds != (None,) and "seed" not in having:
        seeds = (None,)  # a measurement is the same for every seed
    for seed in seeds:
        OPTIONS["seed"].check(seed if seed is not None else 0)
    _check_features(edit, options)
    place = EDITS[edit].place if edit != EXTRACT else ""
    if place and place not in options:
        raise InputError(f"{edit} needs {place!r}: three numbers, LPS mm")
    return options, seeds


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a row, in one cell and in columns of their own."""
    given, columns = _options_cell(row.get("options")), {n: row[n] for n in OPTIONS if n in row}
    both = [n for n in given if n in columns and str(given[n]) != str(columns[n])]
    if both:
        raise InputError(f"{both[0]} is given in its column and in options: leave one of them out")
    return given | columns


def _check_features(edit: str, options: Mapping[str, Any]) -> None:
    if options.get("features"):
        from TumorSynthLib.requests import resolved, split

        (split if EDITS[edit].shape else resolved)(options["features"])


def _options_cell(cell: Any) -> dict[str, Any]:
    """Options of one cell: a mapping, JSON, or `grow=2; contrast=12` in which names that are no options are features."""
    if not cell:
        return {}
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise InputError(f"options are not JSON: {error}") from None
    if isinstance(cell, Mapping):
        unknown = [str(n)[:60] for n in cell if n not in OPTIONS]
        if unknown:
            raise InputError(f"there is no option {unknown[0]!r}: there are {', '.join(OPTIONS)}")
        return dict(cell)
    options: dict[str, Any] = {}
    for part in str(cell).split(";"):
        name, sign, value = (text.strip() for text in part.partition("="))
        if not part.strip():
            continue
        if not sign or not value:
            raise InputError(
                f"options hold {part.strip()[:60]!r}: expected name=value, separated by semicolons"
            )
        where = options if name in OPTIONS else options.setdefault("features", {})
        if name in where:
            raise InputError(f"options hold {name[:60]!r} twice: leave one of them out")
        where[name] = value
    return options


def _seeds(value: Any) -> tuple[int, ...]:
    """Seeds of a cell: 3, [0, 1], "0 1 2" or "0-9"."""
    parts = (
        value if isinstance(value, list) else re.sub(r"\s*-\s*", "-", str(value)).replace(",", " ").split()
    )
    seeds: list[int] = []
    for part in parts:
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18})|\.0+)?", str(part))
        if not match or int(match[2] or match[1]) - int(match[1]) not in range(MAX_JOBS):
            raise InputError(
                f"seed is {str(value)[:60]!r}, but must be a whole number, several (0 1 2) or a range (0-9)"
            )
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds:
        raise InputError("seed is empty: leave it out")
    return tuple(dict.fromkeys(seeds))


def _value(row: Option, value: Any) -> Any:
    """An option's value of a cell as JSON, checked."""
    try:
        if row.kind == "features":
            named = _options_cell(value)["features"] if isinstance(value, str) else value
            value = {str(n): float(v) for n, v in named.items()}
        elif isinstance(value, str):
            value = _from_text(row, value)
    except (ValueError, AttributeError, TypeError, KeyError):
        raise InputError(f"{row.title} is {str(value)[:60]!r}, but must be {row.wanted}") from None
    row.check(row.decode(value))
    return row.encode(row.decode(value))


def _from_text(row: Option, text: str) -> Any:
    if row.kind == "whole":
        return int(text)
    if row.kind == "number":
        return float(text)
    if row.kind == "switch":
        return _SWITCH[text.lower()]
    if row.kind == "point":
        return [float(v) for v in text.replace(",", " ").split()]
    return text
