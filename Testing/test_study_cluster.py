"""Batches on a Dask cluster: a real one of two processes on this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import editor_case
import pytest
import study_case

from TumorSynthLib import cli
from TumorSynthLib.errors import InputError
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.ledger import Ledger
from TumorSynthLib.study.plan import read_plan
from TumorSynthLib.study.run import Tally, run

distributed = pytest.importorskip("distributed")
from TumorSynthLib.study import cluster  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
EDITS = ({"edit": "remove", "options": "steps=1"}, {"edit": "extract"})


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    editor_case.model(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSYNTH_MODELS", str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return study_case.cases(tmp_path_factory.mktemp("cases"), 2)


def plan(folder, data, edits=EDITS):
    rows = [
        {"id": f"c{n}", "image": image, "mask": mask, "model": "tiny", **edit}
        for n, (image, mask) in enumerate(data)
        for edit in edits
    ]
    return study_case.table(folder / "plan.csv", rows)


def address_of_its_own() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def start(*arguments) -> subprocess.Popen:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, **quiet)


@contextmanager
def dask(address: str, workers: int = 2):
    """A scheduler and its workers as processes of their own; gives the processes, the scheduler first."""
    port = address.rpartition(":")[2]
    processes = [
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    ]
    processes += [
        start("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        for _ in range(workers)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def address():
    where = address_of_its_own()
    with dask(where):
        yield where


def test_a_cluster_gives_the_voxels_of_workers(address, data, tmp_path):
    table = plan(tmp_path, data)
    common = ["batch", str(table), "--quiet", "--device", "cpu"]
    assert cli.main([*common, "--out", str(tmp_path / "dask"), "--dask", address]) == 0
    assert cli.main([*common, "--out", str(tmp_path / "local"), "--workers", "2"]) == 0
    found, expected = (
        {row["key"]: (row["state"], row["result_sha256"]) for row in study_case.rows(tmp_path / name)}
        for name in ("dask", "local")
    )
    assert found == expected and len(found) == 4
    assert len({digest for _, digest in found.values()}) == 3  # of two images, and none for those measured


def go(jobs, folder, address, disturb) -> list[dict[str, str]]:
    """Run jobs on a cluster, with `disturb` called when the first has ended; returns the ledger's rows."""
    layout = Layout(folder)
    seen = threading.Event()

    def show(tally):
        if tally.done and not seen.is_set():
            seen.set()
            disturb()

    with Ledger(layout.folder) as ledger:
        run(jobs, ledger, cluster.Cluster(address, layout, "cpu"), Tally(len(jobs), 0), show)
    assert seen.is_set()
    return study_case.rows(folder)


def many(tmp_path, data):
    edits = [{"edit": "extract", "name": f"n{i}", "settings": tmp_path / f"{i}.yaml"} for i in range(5)]
    for i, edit in enumerate(edits):
        edit["settings"].write_text(f"setting: {{binWidth: {20 + i}}}\n")
    rows = [
        {"id": f"c{n}", "image": image, "mask": mask, **edit, "name": f"c{n}{edit['name']}"}
        for n, (image, mask) in enumerate(data)
        for edit in edits
    ]
    return read_plan(study_case.table(tmp_path / "many.csv", rows))


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_a_killed_worker_loses_and_repeats_nothing(data, tmp_path):
    jobs, where = many(tmp_path, data), address_of_its_own()
    with dask(where) as processes:
        rows = go(jobs, tmp_path / "out", where, lambda: processes[1].send_signal(signal.SIGKILL))
    assert [row["state"] for row in rows] == ["done"] * 10 and len({row["key"] for row in rows}) == 10


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_a_scheduler_may_restart(data, tmp_path):
    jobs, where = many(tmp_path, data), address_of_its_own()
    port = where.rpartition(":")[2]
    started = []

    with dask(where) as processes:

        def restart():
            for process in processes:
                process.kill()
                process.wait()
            started.append(
                start(
                    "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"
                )
            )
            started.append(
                start("distributed.cli.dask_worker", where, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            )

        try:
            rows = go(jobs, tmp_path / "out", where, restart)
        finally:
            for process in started:
                process.kill()
                process.wait()
    assert [row["state"] for row in rows] == ["done"] * 10 and len({row["key"] for row in rows}) == 10


def test_no_scheduler(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        cluster.Cluster(address_of_its_own(), Layout(tmp_path))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"TumorSynthLib\[cluster\]"):
        cluster.Cluster("tcp://127.0.0.1:1", Layout(tmp_path))
