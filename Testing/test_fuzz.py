"""Seeded damage to bundles, requests, messages and command lines: nothing but an error on purpose, in bounded time and memory.

Each seed is a test, so that a failure can be repeated. No edit is drawn: what is accepted ends before it.
"""

import copy
import json
import os
import random
import sys
from contextlib import contextmanager

import editor_case
import pytest
from tiny_bundle import tiny_bundle

from TumorSynthLib import cli, provenance
from TumorSynthLib.edit.options import OPTIONS, from_message
from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import Cancelled, InputError, TumorSynthError
from TumorSynthLib.exchange import Folder
from TumorSynthLib.models import list_models, load_bundle
from TumorSynthLib.models.catalogue import Catalogue
from TumorSynthLib.models.manifest import parse_manifest
from TumorSynthLib.worker import Worker

SECONDS, BYTES = 120, 1.5e9  # a test takes a few seconds on a quiet machine
NASTY = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**18, 10**399, -(10**399), 0.0, -0.0, 1e-300, 1e308, float("nan"),
    float("inf"), "", " ", "a", "0", "1e400", "9" * 400, "9" * 5000, "\x1b[2J", "\ud800", "\x00", "../x", "/dev/zero",
    "~nouser/x", "https://[::1", "ä" * 300, [], [1], [0, 0, 0], ["a", "b", "c"], [1e30, 1, 1], [[[]]], {}, {"a": 1},
    {"file": "../x"}, {"x": [10**399]},
)  # fmt: skip


@contextmanager
def bounded():
    """No hang and no gigabytes; on Windows only the first errors are noticed."""
    if os.name == "nt":
        yield
        return
    import resource
    import signal

    def late(number, frame):
        raise AssertionError(f"more than {SECONDS} s")

    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert grown < BYTES, f"{grown / 1e9:.1f} GB"


def damaged(value, rng: random.Random, times: int = 2):
    """A copy of nested containers in which a few values are replaced, left out, doubled or nested."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, times)):
        places = list(_places(value))
        where, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.15:
            del where[key]
        elif kind < 0.25:
            where[key] = [where[key]]
        elif kind < 0.3 and isinstance(where, dict):
            where["new"] = rng.choice(NASTY)
        else:
            where[key] = copy.deepcopy(rng.choice(NASTY))
        if not value:
            break
    return value


def _places(value):
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return editor_case.model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("seed", range(3))
def test_manifests(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    whole = tiny_bundle(tmp_path / "models" / "tiny", network=False).json
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(tmp_path / "models"))
    path = tmp_path / "models" / "tiny" / "bundle.json"
    with bounded():
        for _ in range(60):
            text = json.dumps(damaged(whole, rng))
            try:
                parse_manifest(text.encode(), "bundle.json")
            except TumorSynthError:
                continue
            path.write_text(text)
            for model in list_models(Catalogue((), "")).models:
                json.dumps(model).encode()
            try:
                found = load_bundle(path.parent)
                provenance.model(found)
                found.verify()
                found.population(None)
            except TumorSynthError:
                continue


@pytest.mark.parametrize("seed", range(2))
def test_networks(tmp_path, seed):
    """Damage that a network is built from."""
    pytest.importorskip("torch")
    from TumorSynthLib.texture.generator import TextureModel

    rng = random.Random(seed)
    whole = tiny_bundle(tmp_path / "tiny", network=True).json
    with bounded():
        for _ in range(8):
            manifest = damaged({k: whole[k] for k in ("network", "codec", "sampler", "intensity")}, rng, 1)
            (tmp_path / "tiny" / "bundle.json").write_text(json.dumps({**whole, **manifest}))
            try:
                TextureModel.from_bundle(load_bundle(tmp_path / "tiny"), "cpu")
            except TumorSynthError:
                continue


@pytest.mark.parametrize("seed", range(2))
def test_requests(seed):
    rng = random.Random(seed)
    with bounded():
        for _ in range(300):
            given = {
                rng.choice([*OPTIONS, "colour"]): copy.deepcopy(rng.choice(NASTY))
                for _ in range(rng.randint(1, 3))
            }
            try:
                request = from_message(
                    given, lambda row, entry: (_ for _ in ()).throw(InputError("an image"))
                )
            except InputError:
                continue
            json.dumps(request.options("synthesize"), allow_nan=False)


@pytest.mark.parametrize("seed", range(2))
def test_messages(bundle, tmp_path, monkeypatch, seed):
    rng, events = random.Random(seed), []
    volume, mask = editor_case.ct()
    volume.array.tofile(tmp_path / "v")
    mask.tofile(tmp_path / "m")
    entry = {
        "file": "v", "dtype": "int16", "shape": list(volume.array.shape), "spacing": list(volume.spacing),
        "origin": list(volume.origin), "direction": list(volume.direction), "metadata": {"a": "b"},
    }  # fmt: skip
    box = {"file": "m", "box": [[0, n] for n in mask.shape]}
    request = {"seed": 1, "features": {"contrast": 3.0}, "modality": "CT", "steps": 1, "inside": box}
    whole = {
        "id": 1, "command": "edit", "edit": "synthesize", "model": str(bundle.folder), "device": "cpu", "volume": entry,
        "mask": box, "request": request, "estimate": 2.0,
    }  # fmt: skip

    def ended(*a, **k):
        raise Cancelled("accepted")

    for edit in ("synthesize", "remove", "reshape", "move", "insert", "series"):
        monkeypatch.setattr(Editor, edit, ended)
    worker = Worker(Folder(tmp_path), events.append)
    with bounded():
        for _ in range(40):
            message = damaged({**whole, "edit": rng.choice(["synthesize", "move", "series", "insert"])}, rng)
            worker.serve({**message, "id": 1})  # an odd id ends before
            ends = [e for e in events if e["event"] != "progress"]
            assert len(ends) == 1 and ends[0].get("kind") != "internal", (message, ends)
            json.dumps(provenance.plain(ends[0]))
            events.clear()


@pytest.mark.parametrize("seed", range(2))
def test_command_lines(bundle, tmp_path, monkeypatch, capsys, seed):
    rng = random.Random(seed)
    monkeypatch.chdir(tmp_path)
    image, mask = map(str, editor_case.files(tmp_path))
    texts = [v for v in NASTY if isinstance(v, str) and "\0" not in v and not v.startswith("-")]
    texts += [
        "nan",
        "-1e400",
        "1,2,3",
        "contrast=" + "9" * 400,
        "contrast=1e400",
        "=",
        "a=b",
        "5x",
        image,
        mask,
    ]
    with bounded():
        for _ in range(25):
            command = rng.choice(["extract", "remove", "synthesize", "insert", "move", "series", "shape"])
            options = _flags(command)
            line = [command, *([image] if command != "shape" else [])]
            line += [mask] if command not in ("shape", "insert") else []
            line += ["--model", "no-such-model"] if command != "extract" else []
            line += ["--out", "o.json" if command == "extract" else "o.nii"]
            for flag in rng.sample(options, 2):
                line += [flag, *[rng.choice(texts) for _ in range(3 if flag in ("--to", "--at") else 1)]]
            code = cli.main(line)
            err = capsys.readouterr().err
            assert code in (0, 2, 3) and "internal error" not in err, (line, err)


def _flags(command: str) -> list[str]:
    """Flags of a command that take values."""
    sub = next(
        a for a in cli.parser()._actions if hasattr(a, "choices") and isinstance(a.choices, dict)
    ).choices[command]
    return [
        a.option_strings[0] for a in sub._actions if a.option_strings and a.nargs != 0 and a.dest != "out"
    ]
