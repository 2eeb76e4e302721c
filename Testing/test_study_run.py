"""Batches as they are run: processes, results, failures, kills, full disks and clusters."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import editor_case
import numpy as np
import pytest
import SimpleITK as sitk
import study_case

from TumorSynthLib import cli
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.ledger import NAME, Ledger
from TumorSynthLib.study.processes import Processes
from TumorSynthLib.study.run import Tally, run
from TumorSynthLib.volume import write_volume

ROOT = Path(__file__).resolve().parents[1]
EDIT = {"edit": "remove", "options": "steps=1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return study_case.cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    editor_case.model(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSYNTH_MODELS", str(folder))
        yield folder


def plan(folder, data, edits=(EDIT, {"edit": "extract"}), **more):
    """A table of the cases times edits."""
    rows = [
        {"id": f"c{n}", "patient": f"p{n}", "image": image, "mask": mask, "model": "tiny", **edit, **more}
        for n, (image, mask) in enumerate(data)
        for edit in edits
    ]
    return study_case.table(folder / "plan.csv", rows)


def batch(*args):
    return cli.main(["batch", *map(str, args), "--quiet", "--device", "cpu"])


@pytest.fixture(scope="module")
def done(data, models, tmp_path_factory):
    """A batch of two workers, in which one of seven jobs fails."""
    folder = tmp_path_factory.mktemp("done")
    table = plan(folder, data)
    table.write_text(
        table.read_text() + f"broken,p9,{folder / 'missing.nii.gz'},{data[0][1]},tiny,remove,steps=1\n"
    )
    return folder, table, batch(table, "--out", folder / "out", "--workers", 2)


def test_a_failed_job_doesnt_stop_the_rest(done, data):
    folder, _, code = done
    assert code == 2
    rows = study_case.rows(folder / "out")
    assert sorted(row["state"] for row in rows) == ["done"] * 6 + ["failed"]
    (failed,) = (row for row in rows if row["state"] == "failed")
    assert failed["id"] == "broken" and "missing.nii.gz" in failed["error"]


def test_results_are_whole_and_marked(done, data):
    from TumorSynthLib.provenance import voxel_hash

    folder, _, _ = done
    for row in study_case.rows(folder / "out"):
        if row["edit"] != "remove" or row["state"] != "done":
            continue
        paths = {role: folder / "out" / name for role, name in json.loads(row["outputs"]).items()}
        image = sitk.ReadImage(str(paths["image"]))
        assert "SYNTHETIC" in image.GetMetaData("descrip")
        assert voxel_hash(sitk.GetArrayFromImage(image)) == row["result_sha256"] != row["input_sha256"]
        record = json.loads(paths["sidecar"].read_text())
        assert record["synthetic"] is True and record["batch"]["key"] == row["key"]
        assert float(row["seconds"]) > 0 and row["model"] == "tiny" and row["modality"] == "CT"


def test_files_that_were_changed_in_place_are_noticed(models, tmp_path, capsys):
    """The same paths with other voxels in them once counted as done."""
    files = study_case.cases(tmp_path, 2)
    table = plan(tmp_path, files, edits=({"edit": "extract"},))
    assert batch(table, "--out", tmp_path / "out") == 0
    before = {row["id"]: row for row in study_case.rows(tmp_path / "out")}
    capsys.readouterr()
    assert batch(table, "--out", tmp_path / "out") == 0 and "done again" not in capsys.readouterr().err
    _, mask = editor_case.ct(0)
    mask[9] = False  # another mask under the old name
    write_volume(editor_case.ct(0)[0].with_array(mask.astype(np.uint8)), files[0][1])
    assert batch(table, "--out", tmp_path / "out") == 0
    assert "1 of 2 jobs are done again" in capsys.readouterr().err
    after = {row["id"]: row for row in study_case.rows(tmp_path / "out")}
    assert after["c0"]["input_stamp"] != before["c0"]["input_stamp"] and after["c1"] == before["c1"]
    files[1][0].unlink()  # what is gone can't be read again: its result stays
    assert batch(table, "--out", tmp_path / "out") == 0
    assert {row["id"]: row for row in study_case.rows(tmp_path / "out")} == after


def test_a_ledger_of_an_earlier_version_goes_on(models, data, tmp_path):
    table = plan(tmp_path, data[:1], edits=({"edit": "extract"},))
    assert batch(table, "--out", tmp_path / "out") == 0
    (row,) = study_case.rows(tmp_path / "out")
    path = tmp_path / "out" / NAME
    study_case.table(path, [{name: value for name, value in row.items() if name != "input_stamp"}])
    assert batch(table, "--out", tmp_path / "out") == 0
    (again,) = study_case.rows(tmp_path / "out")
    assert again["finished"] == row["finished"] and again["input_stamp"] == ""


def test_features_are_a_table_of_their_own(done):
    import csv

    folder, _, _ = done
    with open(folder / "out" / "features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["c0", "c1", "c2"]
    assert len({row["original_glcm_Contrast"] for row in rows}) == 3


def test_again_nothing_is_done(done, monkeypatch, capsys):
    folder, table, _ = done
    before = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*")}
    monkeypatch.setattr(Processes, "start", lambda *_: pytest.fail("a job was started"))
    assert batch(table, "--out", folder / "out", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"jobs": 7, "done": 6, "failed": 1, "ledger": str(folder / "out" / NAME)}
    assert len(err.splitlines()) == 1 and "--retry" in err
    assert {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*")} == before


def test_one_worker_gives_the_same_voxels(done, data, tmp_path):
    folder, _, _ = done
    table = plan(tmp_path, data[:2], [EDIT])
    assert batch(table, "--out", tmp_path / "out", "--workers", 1) == 0
    two = {row["key"]: row["result_sha256"] for row in study_case.rows(folder / "out")}
    for row in study_case.rows(tmp_path / "out"):
        assert row["result_sha256"] == two[row["key"]]


def test_retry_does_failed_jobs_again(data, tmp_path):
    image = tmp_path / "later.nii.gz"
    rows = [{"id": "later", "image": image, "mask": data[0][1], "edit": "extract"}]
    table = study_case.table(tmp_path / "plan.csv", rows)
    assert batch(table, "--out", tmp_path / "out") == 2
    image.write_bytes(data[0][0].read_bytes())
    assert batch(table, "--out", tmp_path / "out") == 2
    assert batch(table, "--out", tmp_path / "out", "--retry") == 0
    (row,) = study_case.rows(tmp_path / "out")
    assert row["state"] == "done"


def test_nnunet_layout(data, tmp_path, capsys):
    table = plan(tmp_path, data, [EDIT, {**EDIT, "seed": 1}])
    assert batch(table, "--out", tmp_path / "lung", "--out-layout", "nnunet") == 2
    assert "Dataset101" in capsys.readouterr().err
    out = tmp_path / "Dataset101_Tiny"
    assert batch(table, "--out", out, "--out-layout", "nnunet", "--workers", 2) == 0
    content = json.loads((out / "dataset.json").read_text())
    assert (
        content["numTraining"] == 6
        and content["channel_names"] == {"0": "CT"}
        and content["synthetic"] is True
    )
    images, labels = (sorted(p.name for p in (out / name).iterdir()) for name in ("imagesTr", "labelsTr"))
    assert [name.replace("_0000", "") for name in images] == labels and len(labels) == 6
    for fold in json.loads((out / "splits_final.json").read_text()):
        train, val = ({case.split("_")[0] for case in fold[part]} for part in ("train", "val"))
        assert not train & val and len(fold["train"]) == 4 and len(fold["val"]) == 2
    image = sitk.ReadImage(str(out / "imagesTr" / images[0]))
    label = sitk.ReadImage(str(out / "labelsTr" / labels[0]))
    assert image.GetOrigin() == label.GetOrigin() and image.GetSize() == label.GetSize()
    assert label.GetPixelIDTypeAsString() == "8-bit unsigned integer"


class Killing(Processes):
    """Kills the process of its first job, `times` times, when it is under way."""

    times = 1

    def start(self, job):
        super().start(job)
        if self.times:
            self.times -= 1
            (process,) = (p for p, busy in self._busy.items() if busy is job)
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("times, states", [(1, ["done", "done"]), (2, ["done", "failed"])])
def test_a_killed_worker_loses_and_repeats_nothing(data, tmp_path, times, states):
    from TumorSynthLib.study.plan import read_plan

    jobs = read_plan(plan(tmp_path, data[:2], [{"edit": "extract"}]))
    layout = Layout(tmp_path / "out")
    executor = Killing(layout, 1)
    executor.times = times
    with Ledger(layout.folder) as ledger:
        run(jobs, ledger, executor, Tally(2, 0))
    rows = study_case.rows(layout.folder)
    assert sorted(row["state"] for row in rows) == states and len({row["key"] for row in rows}) == 2
    if times == 2:
        assert "signal 9" in next(row["error"] for row in rows if row["state"] == "failed")
    assert not [p for p in layout.folder.rglob(".tumorsynth*")]


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_batch_goes_on(data, tmp_path, number):
    """After each way to end the whole batch, the next run does what was left and nothing twice."""
    table, out = (
        plan(
            tmp_path,
            data,
            [
                {"edit": "extract", "options": ""},
                *({"edit": "remove", "options": f"seed={n}"} for n in range(3)),
            ],
        ),
        tmp_path / "out",
    )
    code = (  # after two rows it waits for the signal
        "import signal, sys, time; from TumorSynthLib import cli; from TumorSynthLib.study.ledger import Ledger\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "add = Ledger.add\n"
        "Ledger.add = lambda self, row: (add(self, row), len(self.rows) > 1 and time.sleep(600))\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "batch", table, "--out", out]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300  # a second on a quiet machine
    while not (out / NAME).exists() or len(study_case.rows(out)) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    first = study_case.rows(out)
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "goes on from here" in err and "Traceback" not in err
    assert batch(table, "--out", out) == 0
    rows = study_case.rows(out)
    assert len(rows) == 12 == len({row["key"] for row in rows}) and rows[: len(first)] == first
    assert not [p for p in out.rglob(".tumorsynth*")]


@pytest.mark.skipif(os.name == "nt", reason="limits differ")
def test_a_full_disk_stops_the_batch(data, tmp_path):
    """Files that can't grow stand for a disk without room: what is done stays, the rest is still to be done."""
    table, out = plan(tmp_path, data, [{"edit": "extract", "model": ""}]), tmp_path / "out"
    code = (
        "import resource, sys; from TumorSynthLib import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", code, "batch", str(table), "--out", str(out)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "make room" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert study_case.rows(out) == [] and not list(out.rglob("*.json"))
    assert batch(table, "--out", out) == 0
    assert [row["state"] for row in study_case.rows(out)] == ["done"] * 3


def test_another_version_of_the_model_is_refused(data, tmp_path, models):
    """A job is of the model that was planned, which its hash tells."""
    from dataclasses import replace

    from TumorSynthLib.study.perform import Bench
    from TumorSynthLib.study.plan import read_plan

    (job,) = read_plan(plan(tmp_path, data[:1], [EDIT]))
    row = Bench(Layout(tmp_path / "out")).do(replace(job, model_sha256="0" * 64))
    assert row["state"] == "failed" and "another version" in row["error"]


def test_what_readers_say_is_in_the_ledger(data, tmp_path):
    """A mask on a grid of its own is resampled, which its row says."""
    from TumorSynthLib.study.perform import Bench

    mask = sitk.ReadImage(str(data[0][1]))
    mask.SetOrigin([o + 0.4 for o in mask.GetOrigin()])
    path = tmp_path / "shifted_mask.nii.gz"
    sitk.WriteImage(mask, str(path))
    job = study_case.job(image=str(data[0][0]), mask=str(path), label=1)
    row = Bench(Layout(tmp_path / "out")).do(job)
    assert row["state"] == "done"
    assert any("another grid" in text for text in row["warnings"])
    assert Bench(Layout(tmp_path / "out")).do(job)["finished"] == row["finished"]  # found, not done again


def test_the_record_of_a_job_tells_its_label(data, tmp_path):
    from TumorSynthLib.models import find
    from TumorSynthLib.study.perform import Bench

    bundle, (image, mask) = find("generic-ct"), map(str, data[0][:2])
    model = {"model": str(bundle.folder), "model_id": bundle.id, "model_sha256": bundle.sha256}
    layout = Layout(tmp_path / "out")
    avoid = {"avoid": {"mask": str(data[1][1]), "label": 1}}
    for label, told, options in ((1, {"mask": ["1"]}, {}), (None, None, {}), (None, {"avoid": ["1"]}, avoid)):
        name = f"l{label}{len(options)}"
        job = study_case.job(
            edit="remove", image=image, mask=mask, label=label, name=name, options=options, **model
        )
        row = Bench(layout).do(job)
        assert row["state"] == "done", row
        entry = json.loads(layout.paths(job)["sidecar"].read_text())
        assert entry.get("labels") == told
        assert entry["files"].get("avoid") == (Path(data[1][1]).name if options else None)


def test_a_job_leaves_other_tumours_of_its_mask(data, tmp_path):
    from TumorSynthLib.errors import ImageWarning
    from TumorSynthLib.study.perform import _inputs

    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(data[0][1])))
    image = sitk.GetImageFromArray((np.where(np.arange(mask.shape[2]) < 18, 1, 2) * mask).astype(np.uint8))
    image.CopyInformation(sitk.ReadImage(str(data[0][1])))
    sitk.WriteImage(image, str(tmp_path / "two.nii"))
    job = study_case.job(
        edit="remove", image=str(data[0][0]), mask=str(tmp_path / "two.nii"), label=1, model="none"
    )
    with pytest.warns(ImageWarning, match="label 2 of two.nii, next to the tumour, is left as it is"):
        (_, own), request = _inputs(job, SimpleNamespace(regions=[None]))
    labels = sitk.GetArrayFromImage(image)
    assert np.array_equal(own, labels == 1) and np.array_equal(request.avoid, labels == 2)


def test_inputs_are_never_overwritten(data, tmp_path, capsys):
    folder = tmp_path / "out" / "c0"
    folder.mkdir(parents=True)
    image = folder / "same.nii.gz"
    image.write_bytes(data[0][0].read_bytes())
    rows = [{"id": "c0", "name": "same", "image": image, "mask": data[0][1], "model": "tiny", **EDIT}]
    assert batch(study_case.table(tmp_path / "plan.csv", rows), "--out", tmp_path / "out") == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert image.read_bytes() == data[0][0].read_bytes()


def test_workers_are_few(tmp_path, capsys):
    assert batch("nowhere.csv", "--out", tmp_path / "out", "--workers", 0) == 2
    assert "--workers" in capsys.readouterr().err
    assert batch("nowhere.csv", "--out", tmp_path / "out") == 2
    assert "nowhere.csv" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_voxels_outside_the_mask_stay(done, data):
    folder, _, _ = done
    for row in study_case.rows(folder / "out"):
        if row["edit"] == "remove" and row["state"] == "done":
            image, mask = data[int(row["id"][1])]
            before, inside, after = (
                sitk.GetArrayFromImage(sitk.ReadImage(str(p)))
                for p in (image, mask, folder / "out" / json.loads(row["outputs"])["image"])
            )
            assert np.array_equal(before[inside == 0], after[inside == 0])


def test_a_new_tumours_model_goes_by_its_organ_and_the_others(data, tmp_path, monkeypatch):
    from TumorSynthLib import commands
    from TumorSynthLib.study import plan

    seen = []
    monkeypatch.setattr(commands, "model_of", lambda asked, *more: seen.append(vars(asked)) or "tiny")
    options = {"at": "auto", "inside": {"mask": "organ.nii", "label": 2}, "avoid": {"mask": "others.nii"}}
    row = {"image": str(data[0][0])}
    assert plan._suited(row, "insert", options, str(tmp_path)) == "tiny"
    told = {
        "at": "auto",
        "inside": "organ.nii",
        "inside_label": 2,
        "avoid": "others.nii",
        "avoid_label": None,
    }
    assert told.items() <= seen[0].items()
