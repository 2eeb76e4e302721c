"""Tables of batches: what is read, what is refused, and what a job is."""

import json
import os

import pytest
import study_case

from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.phantom import chest
from TumorSynthLib.study.layouts import Layout, splits
from TumorSynthLib.study.ledger import COLUMNS, LOCK, NAME, Ledger, read
from TumorSynthLib.study.plan import Job, read_plan
from TumorSynthLib.study.run import Tally, pending
from TumorSynthLib.volume import write_volume


def plan(tmp_path, text, name="table.csv", model="lung-nodule-ct"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_plan(path, model)


def test_a_row_is_a_job(tmp_path):
    (job,) = plan(
        tmp_path,
        "id,patient,image,mask,label,edit,options,seed,inside,inside_label\n"
        'a,p1,a.nii.gz,sub/m.nii.gz,2,move,"to=1 -2.5 3; contrast=12; mass_effect=4; nearest=yes",7,organ.nrrd,3\n',
    )
    assert (job.id, job.patient, job.edit, job.label) == ("a", "p1", "move", 2)
    assert job.image == str(tmp_path.resolve() / "a.nii.gz") and job.mask == str(
        tmp_path.resolve() / "sub/m.nii.gz"
    )
    assert job.options == {
        "to": [1.0, -2.5, 3.0],
        "features": {"contrast": 12.0},
        "mass_effect": 4.0,
        "nearest": True,
        "inside": {"mask": str(tmp_path.resolve() / "organ.nrrd"), "label": 3},
        "seed": 7,
    }
    assert job.model_id == "lung-nodule-ct" and len(job.model_sha256) == 64
    assert Job.from_json(job.to_json()) == job and job.stem == f"a_move_{job.key[:8]}"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_separators_and_byte_order_marks(tmp_path, separator, start):
    rows = [("image", "mask", "edit"), ("a.nii.gz", "m.nii.gz", "extract"), ("", "", "")]
    (job,) = plan(tmp_path, start + "\n".join(separator.join(row) for row in rows))
    assert job.id == "a" and job.edit == "extract"


def test_labels_by_number_or_name(tmp_path):
    jobs = plan(tmp_path, "image,mask,edit,label\na,m,extract,3\na,m,extract,GTV-1\na,m,extract,")
    assert [job.label for job in jobs] == [3, "GTV-1", None]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "sep=;\n" + t.replace(",", ";"),
        lambda t: t.replace("\n", "\r"),
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("image,mask", "Image, Mask "),
        lambda t: "\n\n" + t,
        lambda t: t.replace("3,4", "3.0,4.0"),
    ],
)
def test_tables_as_spreadsheets_and_pandas_save_them(tmp_path, change):
    path = tmp_path / "table.csv"
    path.write_bytes(change("image,mask,edit,label,seed\na,m,remove,3,4\n").encode())
    (job,) = read_plan(path, "lung-nodule-ct")
    assert (job.id, job.edit, job.label, job.options) == ("a", "remove", 3, {"seed": 4})


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.csv", "image,image,mask,edit\na,b,m,remove\n", "column 'image' twice"),
        (
            "a.csv",
            "image,mask,edit,options\na,m,remove,grow=1; grow=2\n",
            "line 2: options hold 'grow' twice",
        ),
        ("a.csv", "image,mask,edit,grow,options\na,m,remove,1,grow=2\n", "in its column and in options"),
        ("a.csv", '\nimage,mask,edit\na,m,remove\n"b,m,remove\n', "line 3: unexpected end"),
        ("a.yaml", "jobs:\n- {image: a, mask: m, edit: remove, image: b}\n", "'image' twice"),
        (
            "a.json",
            '{"jobs": [{"image": "a", "mask": "m", "edit": "remove", "image": "b"}]}',
            "'image' twice",
        ),
    ],
)
def test_what_a_table_says_twice_is_refused(tmp_path, name, text, words):
    """The last one was taken without a word."""
    with pytest.raises(InputError, match=words):
        plan(tmp_path, text, name)


def test_seeds_make_jobs_of_their_own(tmp_path):
    jobs = plan(tmp_path, "image,mask,edit,seed\na.nrrd,m.nrrd,remove,0-2\na.nrrd,m.nrrd,remove,1 5\n")
    assert [job.options["seed"] for job in jobs] == [0, 1, 2, 5]  # the second 1 is the same job
    assert len({job.stem for job in jobs}) == 4


CASES = {
    "defaults": {"mask": "m.nrrd", "options": {"grow": 1}},
    "cases": [{"id": "a", "image": "a.nrrd"}, {"id": "b", "image": "b.nrrd", "label": 2}],
    "edits": [
        {"edit": "remove"},
        {"edit": "extract", "options": {"grow": None}},
        {"edit": "reshape", "options": {"features": {"volume_ml": 2}, "grow": 3}, "seed": [0, 1]},
    ],
}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_cases_times_edits(tmp_path, suffix):
    content = json.loads(json.dumps(CASES))
    del content["edits"][1]["options"]
    del content["defaults"]["options"]
    content["edits"][0]["options"] = {"grow": 1}
    if suffix == "yaml":
        yaml = pytest.importorskip("yaml")
        text = yaml.safe_dump(content)
    else:
        text = json.dumps(content)
    jobs = plan(tmp_path, text, f"plan.{suffix}")
    assert [(j.id, j.edit, j.options.get("seed")) for j in jobs] == [
        (case, edit, seed)
        for case in "ab"
        for edit, seed in (("remove", None), ("extract", None), ("reshape", 0), ("reshape", 1))
    ]
    assert jobs[0].options == {"grow": 1.0} and jobs[-1].options["features"] == {"volume_ml": 2.0}
    assert jobs[0].label is None and jobs[-1].label == 2


HEAD = "image,mask,edit,"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no column 'image'"),
        ("image,mask,edit\n", "no rows"),
        ("image,mask,edit,optoins\na,m,remove,grow=1", "line 2.*optoins.*options"),
        (HEAD + "seed\na,m,resize,0", "line 2.*resize"),
        (HEAD + "seed\na,m,series,0", "series"),
        (HEAD + "seed\na,,remove,0", "mask"),
        (HEAD + "seed\na,m,remove,-1", "seed"),
        (HEAD + "seed\na,m,remove,1.5", "seed"),
        (HEAD + "options\na,m,remove,contrast=12", "remove has no option 'features'"),
        (HEAD + "options\na,m,remove,grow=wide", "grow"),
        (HEAD + "options\na,m,remove,grow=99", "grow"),
        (HEAD + "options\na,m,remove,grow", "name=value"),
        (HEAD + "options\na,m,synthesize,kontrast=12", "contrast"),
        (HEAD + "options\na,m,synthesize,sphericity=0.5", "sphericity can.t be asked"),
        (HEAD + 'options\na,m,synthesize,"{""grow"": "', "JSON"),
        (HEAD + "to\na,m,move,1 2", "to"),
        (HEAD + "seed\na,m,move,1", "'to'"),
        (HEAD + "id\na,m,remove,../up", "can't name a file"),
        (HEAD + "id\na,m,remove,.hidden", "can't name a file"),
        (HEAD + "settings,model\na,m,extract,s.yaml,lung-nodule-ct", "settings"),
        (HEAD + "donor_image\na,m,synthesize,d.nrrd", "donor"),
        (HEAD + "name\na,m,remove,x\nb,m,remove,x", "line 3.*own name"),
        ("image,mask,edit\na,m,remove,more", "more cells"),
    ],
)
def test_refuses_tables(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        plan(tmp_path, text)


@pytest.mark.parametrize(
    "content, words",
    [
        ([], "must hold"),
        ({"rows": []}, "must hold"),
        ({"jobs": {"a": 1}}, "jobs"),
        ({"cases": [{"image": "a"}]}, "no edits"),
    ],
)
def test_refuses_structures(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        plan(tmp_path, json.dumps(content), "plan.json")


def test_an_unknown_model_is_said_at_once(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        plan(tmp_path, HEAD + "model\na,m,remove,nowhere")
    with pytest.raises(InputError, match="line 2.*no file"):  # which is looked at for the model that suits
        plan(tmp_path, "image,mask,edit\na,m,remove", model=None)


def test_without_a_model_the_one_that_suits_is_planned(tmp_path):
    volume, mask = chest(seed=1)
    write_volume(volume, tmp_path / "a.nii.gz")
    write_volume(volume.with_array(mask.astype("uint8")), tmp_path / "m.nii.gz")
    (job,) = plan(tmp_path, "image,mask,edit,label\na.nii.gz,m.nii.gz,remove,1", model=None)
    assert job.model_id == "lung-nodule-ct" and len(job.model_sha256) == 64


def test_what_a_key_is_of(tmp_path):
    job = study_case.job()
    same = study_case.job(patient="other", name="other", model="/elsewhere")
    assert job.key == same.key
    changes = (
        {"label": 1},
        {"image": "/b"},
        {"options": {"modality": "CT"}},
        {"model_sha256": "f"},
        {"edit": "remove"},
    )
    assert len({job.key, *(study_case.job(**change).key for change in changes)}) == 6


def test_patients_stay_in_their_fold():
    patients = {f"case{n}": f"patient{n % 13}" for n in range(60)}
    folds = splits(patients)
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(patients)
    for fold in folds:
        assert set(fold["train"]) | set(fold["val"]) == set(patients)
        assert not {patients[c] for c in fold["train"]} & {patients[c] for c in fold["val"]}
    assert folds == splits(dict(reversed(patients.items())))
    assert len(splits({"a": "p", "b": "q", "c": "p"})) == 2


def test_ledger_keeps_what_it_is_given(tmp_path):
    jobs = [study_case.job(n) for n in range(3)]
    with Ledger(tmp_path) as ledger:
        ledger.add(study_case.row_of(jobs[0], error='a "quoted",\nbroken\r line', asked={"contrast": 12.5}))
        with pytest.raises(InputError, match="another batch"), Ledger(tmp_path):
            pass
        ledger.add(study_case.row_of(jobs[1], state="failed"))
    rows, whole = read(tmp_path / NAME)
    assert whole and list(rows) == [jobs[0].key, jobs[1].key]
    assert rows[jobs[0].key]["error"] == 'a "quoted", broken line'
    assert json.loads(rows[jobs[0].key]["asked"]) == {"contrast": 12.5}


@pytest.mark.parametrize("cut", [1, 40, 120])
def test_a_cut_row_is_dropped(tmp_path, cut):
    jobs = [study_case.job(n) for n in range(3)]
    with Ledger(tmp_path) as ledger:
        for job in jobs:
            ledger.add(study_case.row_of(job))
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[:-cut])
    with Ledger(tmp_path) as ledger:
        assert list(ledger.rows) == [job.key for job in jobs[:2]]
        ledger.add(study_case.row_of(jobs[2]))
    assert (tmp_path / NAME).read_bytes() == data


def test_another_file_is_no_ledger(tmp_path):
    (tmp_path / NAME).write_text("my,table\n1,2\n")
    with pytest.raises(InputError, match="no ledger"), Ledger(tmp_path):
        pass
    assert (tmp_path / NAME).read_text() == "my,table\n1,2\n"
    assert sorted(os.listdir(tmp_path)) == [LOCK, NAME]


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path):
    resource = pytest.importorskip("resource")
    jobs = [study_case.job(n) for n in range(2)]
    with Ledger(tmp_path) as ledger:
        ledger.add(study_case.row_of(jobs[0]))
        before = (tmp_path / NAME).read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        try:
            with pytest.raises(InputError, match="make room"):
                ledger.add(study_case.row_of(jobs[1]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / NAME).read_bytes() == before and list(ledger.rows) == [jobs[0].key]
        ledger.add(study_case.row_of(jobs[1]))
    assert len(read(tmp_path / NAME)[0]) == 2


def test_a_large_batch_resumes_with_one_look_at_each_folder(tmp_path, monkeypatch):
    """Reading the ledger and seeing that all results are there: no look at the single results of thousands of jobs."""
    table = ["image,mask,edit,id,patient,seed"]
    table += [f"case{n}.nii.gz,m.nii.gz,remove,case{n},p{n % 50},{n % 7}" for n in range(2000)]
    jobs = plan(tmp_path, "\n".join(table))
    layout = Layout(tmp_path / "out")
    with Ledger(layout.folder) as ledger:
        text = [",".join(COLUMNS)]
        for job in jobs:
            row = {**study_case.row_of(job), "outputs": "{}", "asked": "{}"}
            text.append(",".join(str(row.get(name, "")) for name in COLUMNS))
            for path in layout.paths(job).values():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    (layout.folder / NAME).write_text("\n".join(text) + "\n")
    folders, looks = [], []
    for seen, name in ((folders, "listdir"), (looks, "stat"), (looks, "scandir"), (looks, "open")):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, _seen=seen, _real=real, **k: _seen.append(a[0]) or _real(*a, **k)
        )
    with Ledger(layout.folder) as ledger:
        assert pending(jobs, ledger, layout) == ()
    monkeypatch.undo()
    assert len(ledger.rows) == 2000
    assert (
        len(folders)
        == len(set(folders))
        == len({path.parent for job in jobs for path in layout.paths(job).values()})
    )
    assert len(looks) < 10  # the ledger, its lock, its folder


def test_what_is_left_to_do(tmp_path):
    jobs = [study_case.job(n) for n in range(5)]
    layout = Layout(tmp_path)
    for job in (jobs[0], jobs[3]):
        path = layout.paths(job)["features"]
        path.parent.mkdir()
        row = {**study_case.row_of(job), "outputs": {}}
        path.write_text(json.dumps({"features": {}, "batch": row}))
    with Ledger(tmp_path) as ledger:
        ledger.add(study_case.row_of(jobs[0]))  # done
        ledger.add(study_case.row_of(jobs[1]))  # done, but its result was taken away
        ledger.add(study_case.row_of(jobs[2], state="failed"))
        # the fourth was done by a process that died before its row was written; the fifth hasn't begun
        assert pending(jobs, ledger, layout) == (jobs[1], jobs[4])
        assert ledger.rows[jobs[3].key]["state"] == "done" and jobs[1].key not in ledger.rows
        assert pending(jobs, ledger, layout, retry=True) == (jobs[1], jobs[2], jobs[4])
    assert list(read(tmp_path / NAME)[0]) == [jobs[0].key, jobs[3].key]


def test_remaining_time(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 120.0)
    tally = Tally(jobs=100, before=40, done=9, failed=1, start=100.0)
    assert tally.left == 50 and tally.remaining() == 100
    assert str(tally).startswith("50 of 100 jobs, 1 failed, 2 min left")
