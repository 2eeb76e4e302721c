"""Several processes, or several batches a step, train the codec and the baselines as one larger batch does."""

import functools
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from training_case import (  # noqa: F401
    EACH_STEP,
    TRAINING,
    WIDTHS,
    assert_same_losses,
    call,
    common,
    each_step,
    one_thread,
    prepared,
)

train_baseline = pytest.importorskip("train_baseline", reason="the training extra is not installed")
import train_codec  # noqa: E402

SCRIPTS = {
    # So many levels that rounding, which sums in another order may tip, changes next to nothing. With this seed one half of
    # a batch has tumours that the other lacks.
    "codec": (
        train_codec,
        ("--width", 8, "--levels", 4097, 4097, 4097, "--critic", 4, "--crops", 1, "--seed", 4),
    ),
    "gan": (train_baseline, ("--kind", "gan", *WIDTHS)),
    "ldm": (train_baseline, ("--kind", "ldm", *WIDTHS)),
}


def words(kind: str, data: Path, out: Path, *more) -> list[str]:
    """Options of three steps."""
    options = ("--data", data, "--out", out, "--steps", 3, "--threads", 1, *SCRIPTS[kind][1], *more)
    return [str(a) for a in options]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def call_twice(module, *arguments: str):
    """A script's `main` in this process and a second one, which share each step."""
    where = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    where |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", EACH_STEP.format(str(TRAINING), module.__name__), *arguments]
    env = {**os.environ, **where, "RANK": "1", "LOCAL_RANK": "1"}
    second = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    start = functools.partial(torch.distributed.init_process_group, timeout=timedelta(seconds=120))
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**where, "RANK": "0"}.items():
                patch.setenv(name, value)
            patch.setattr(common.dist, "init_process_group", start)
            call(module, *arguments)
        message = second.communicate(timeout=120)[1]
        assert second.returncode == 0, message[-2000:]
    finally:
        second.kill()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("kind", ["codec", "gan"])
def test_two_processes_equal_one(kind, prepared, tmp_path, each_step):
    script = SCRIPTS[kind][0]
    call(script, *words(kind, prepared, tmp_path / "one", "--batch", 4))
    call_twice(script, *words(kind, prepared, tmp_path / "two", "--batch", 2))
    assert_same_losses(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("kind", SCRIPTS)
def test_accumulation_equals_a_larger_batch(kind, prepared, tmp_path, each_step):
    script = SCRIPTS[kind][0]
    call(script, *words(kind, prepared, tmp_path / "one", "--batch", 4))
    call(script, *words(kind, prepared, tmp_path / "parts", "--batch", 2, "--accumulate", 2))
    assert_same_losses(tmp_path / "parts", tmp_path / "one")
