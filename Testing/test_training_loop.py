"""What surrounds the steps of training: validation, early stopping, resuming, pictures, progress bar, TensorBoard."""

import importlib
import io
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from training_case import WIDTHS, call, close, common, one_thread, prepared, sampler_of, train, train_texture  # noqa: F401

monitor = pytest.importorskip("monitor")
from sampling import moved  # noqa: E402

QUICK = ("--batch", 2, "--threads", 1, "--steer", 0)


@pytest.fixture(scope="module")
def val(prepared, tmp_path_factory) -> Path:
    """The prepared crops as if they were of other patients."""
    folder = tmp_path_factory.mktemp("val") / "val"
    shutil.copytree(prepared, folder)
    rows = json.loads((folder / "rows.json").read_text())
    (folder / "rows.json").write_text(json.dumps([{**r, "patient": "other " + r["patient"]} for r in rows]))
    return folder


def log(folder: Path) -> list[dict]:
    """Log rows without times."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "left")} for row in rows]


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(prepared, val, tmp_path, monkeypatch):
    options = (*QUICK, "--steps", 4, "--save-every", 2, "--val", val, "--val-every", 2, "--val-items", 4)
    whole = train(prepared, tmp_path / "whole", *options)
    save = common.Run.save

    def killed(self, state, name="last.pt"):
        save(self, state, name)
        if state["step"] == 2 and name == "last.pt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(common.Run, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(prepared, tmp_path / "parts", *options)
    parts = train(prepared, tmp_path / "parts", *options)
    assert log(tmp_path / "parts") == log(tmp_path / "whole") and len(log(tmp_path / "whole")) == 3
    assert parts["average"] == whole["average"] and parts["validation"] == whole["validation"]
    assert close(parts["network"], whole["network"]) == 0


def test_training_stops_when_validation_gets_no_better(prepared, val, tmp_path, monkeypatch):
    found = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    monkeypatch.setattr(train_texture, "validation_loss", lambda *a, **k: next(found))
    options = (*QUICK, "--steps", 50, "--val", val, "--val-every", 1, "--patience", 2)
    saved = train(prepared, tmp_path, *options)
    assert saved["step"] == 4 and saved["validation"] == [1.0, 2]
    best = torch.load(tmp_path / "best.pt", map_location="cpu", weights_only=True)
    assert best["step"] == 2 and best["validation"] == [1.0, 0]
    assert [row["val"] for row in log(tmp_path)] == [3.0, 1.0, 2.0, 1.5]


def test_validation_takes_the_averaged_weights_and_the_same_items(prepared, val, tmp_path):
    options = (*QUICK, "--steps", 1, "--val", val, "--val-items", 5, "--lr", 0)
    train(prepared, tmp_path, *options)
    row = log(tmp_path)[-1]
    sampler, _ = sampler_of(val)
    trainer = _trainer(prepared, tmp_path, options)
    network, losses = train_texture.averaged(trainer.network, trainer.ema), []
    for k in range(5):
        batch = moved(sampler.batch(1, 0, k, monitor.VALIDATION_SEED), trainer.run.device)
        losses.append(float(train_texture.loss_of(network, trainer.codec, batch, trainer.bridge)[0].detach()))
    assert row["val"] == pytest.approx(np.mean(losses), rel=1e-5)


def _trainer(data, out, options):
    with pytest.MonkeyPatch.context() as patch:
        words = ["train_texture", "--data", data, "--out", out, "--widths", 8, 8, 16, *options]
        patch.setattr("sys.argv", [str(w) for w in words])
        return train_texture.Trainer(train_texture.parse())


def test_processes_share_a_validation(prepared):
    sampler, _ = sampler_of(prepared)

    def loss(batch):
        return batch["x"].mean((1, 2, 3, 4))

    def run(rank, world):
        return types.SimpleNamespace(rank=rank, world=world, device="cpu", mean=lambda v: v)

    whole = monitor.validation_loss(loss, sampler, run(0, 1), 6, batch=4)
    shares = [monitor.validation_loss(loss, sampler, run(k, 2), 6, batch=4) for k in (0, 1)]
    assert np.mean(shares) == pytest.approx(whole, rel=1e-6) and shares[0] != shares[1]


def test_validation_of_training_patients_or_another_grid_is_refused(prepared, val, tmp_path):
    with pytest.raises(SystemExit, match="STS_000"):
        train(prepared, tmp_path, *QUICK, "--steps", 1, "--val", prepared)
    meta = json.loads((val / "meta.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(val, other)
    (other / "meta.json").write_text(json.dumps({**meta, "spacing": [2, 2, 2]}))
    with pytest.raises(SystemExit, match="spacing"):
        train(prepared, tmp_path, *QUICK, "--steps", 1, "--val", other)


def test_pictures_and_tensorboard_change_nothing(prepared, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(monitor, "SHOWN", 2)
    plain = train(prepared, tmp_path / "plain", *QUICK, "--steps", 2)
    shown = train(prepared, tmp_path / "shown", *QUICK, "--steps", 2, "--samples-every", 2, "--tensorboard")
    assert close(plain["network"], shown["network"]) == 0
    assert [p.name for p in (tmp_path / "shown/samples").iterdir()] == ["0000002.png"]
    events = accumulator.EventAccumulator(str(tmp_path / "shown/tensorboard"))
    events.Reload()
    assert events.Scalars("loss")[0].value == pytest.approx(log(tmp_path / "shown")[-1]["loss"], rel=1e-4)
    assert events.Tags()["images"] == ["samples"] and not (tmp_path / "plain/tensorboard").exists()


SCRIPTS = {
    "codec": ("train_codec", ("--width", 8, "--levels", 9, 9, 9, "--critic", 0, "--crops", 1)),
    "gan": ("train_baseline", ("--kind", "gan", *WIDTHS)),
    "ldm": ("train_baseline", ("--kind", "ldm", *WIDTHS)),
    "bridge": ("train_baseline", ("--kind", "bridge", *WIDTHS)),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_codec_and_baselines_have_pictures_tensorboard_and_bar(kind, prepared, tmp_path, monkeypatch, capsys):
    name, options = SCRIPTS[kind]
    for needed in ("matplotlib", "monai"):
        pytest.importorskip(needed)
    monkeypatch.setattr(monitor, "SHOWN", 2)
    monkeypatch.setattr("baselines.DDIM_STEPS", 2)
    terminal, board = Terminal(), Board()
    monkeypatch.setattr(monitor, "tensorboard", lambda folder: board)
    bar = monitor.ProgressBar(terminal)
    monkeypatch.setattr(monitor, "ProgressBar", lambda: bar)
    shown = ("--data", prepared, "--out", tmp_path, "--steps", 1, "--batch", 2, "--threads", 1, *options)
    call(importlib.import_module(name), *shown, "--samples-every", 1, "--tensorboard")
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["0000001.png"]
    assert board.scalars["loss"] == pytest.approx(log(tmp_path)[-1]["loss"], rel=1e-4)
    assert list(board.images) == ["samples"] and board.images["samples"].ndim == 3 and board.closed
    assert "100 %" in terminal.getvalue() and '"loss"' not in capsys.readouterr().out


class Board:
    """What is written to TensorBoard, which needn't be installed."""

    def __init__(self):
        self.scalars, self.images, self.closed = {}, {}, False

    def add_scalar(self, name, value, step):
        self.scalars[name] = value

    def add_image(self, name, image, step, dataformats):
        self.images[name] = image

    def close(self):
        self.closed = True


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_bar_shows_what_is_left_on_a_terminal_only():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        bar = monitor.ProgressBar(stream)
        bar.show(0.25, 3_723.4, step=100, loss=0.12345678)
        bar.show(0.5, 59.0, step=200, loss=0.1)
        bar.close()
    assert file.getvalue() == ""
    first, second = terminal.getvalue().split("\r")[1:]
    assert "25 %" in first and "loss 0.1235" in first and "1:02:03 left" in first and first.count("=") == 6
    assert "step 200" in second and "0:00:59 left" in second and second.endswith("\n")
    assert len(second.rstrip("\n")) >= len(first.rstrip())  # nothing of the longer line stays


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (-5, "0:00:00"), (90_061, "1 d 1:01:01")])
def test_durations(seconds, text):
    assert monitor.duration(seconds) == text


def test_the_screen_has_the_bar_or_the_lines(prepared, tmp_path, monkeypatch, capsys):
    train(prepared, tmp_path / "lines", *QUICK, "--steps", 1)
    assert '"loss"' in capsys.readouterr().out
    terminal = Terminal()
    bar = monitor.ProgressBar(terminal)
    monkeypatch.setattr(monitor, "ProgressBar", lambda: bar)
    train(prepared, tmp_path / "bar", *QUICK, "--steps", 1)
    assert '"loss"' not in capsys.readouterr().out and "100 %" in terminal.getvalue()
    assert log(tmp_path / "bar") == log(tmp_path / "lines")
