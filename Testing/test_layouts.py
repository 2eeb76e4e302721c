"""Cases from the official layouts of public data sets: tiny trees with real DICOM objects, read back voxel for voxel."""

import json
import sys
from pathlib import Path

import dicom_tree
import numpy as np
import pytest
import SimpleITK as sitk

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import Volume, read_image

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

pytestmark = pytest.mark.filterwarnings("ignore:The string")  # patients' names with one part
layouts = pytest.importorskip("layouts")
prepare = pytest.importorskip("prepare")


def nifti(path: Path, array: np.ndarray, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def loaded(layout: str, folder: Path) -> dict[str, tuple]:
    """Case by id and modality, with its volume and labels."""
    return {f"{c.id} {c.modality}": (c, *c.load()) for c in layouts.cases(layout, folder)}


def labelled(shape, **boxes) -> np.ndarray:
    """Labelmap with cubes: label n at `l<n>`."""
    labels = np.zeros(shape, np.uint8)
    for name, (low, high) in boxes.items():
        labels[low:high, low:high, low:high] = int(name[1:])
    return labels


def main(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        prepare.main()


# Folders of files


def test_kits23(tmp_path):
    labels = labelled((20, 20, 20), l1=(2, 18), l3=(3, 6), l2=(8, 15))
    image = np.random.default_rng(0).integers(-100, 200, labels.shape).astype(np.int16)
    nifti(tmp_path / "case_00003/imaging.nii.gz", image)
    nifti(tmp_path / "case_00003/segmentation.nii.gz", labels)
    nifti(tmp_path / "case_00004/segmentation.nii.gz", labels)  # its image is not downloaded
    found = loaded("kits23", tmp_path)
    assert list(found) == ["case_00003 CT"]
    case, volume, there = found["case_00003 CT"]
    assert np.array_equal(volume.array, image) and np.array_equal(there, labels)
    layout = layouts.LAYOUTS["kits23"]
    plan = prepare.Plan((1, 1, 1), (16, 16, 16), regions=layout.regions, healthy=layout.healthy)
    regions = prepare.region_map(there, volume, plan, ct=True)
    assert np.array_equal(regions == 1, labels == 2)  # the tumour
    assert np.array_equal(regions == prepare.LESION, labels == 3)  # a cyst is neither tumour nor healthy
    assert not regions[labels == 1].any()  # the kidney is healthy


def test_brats2021_has_four_images_and_two_regions(tmp_path):
    labels = labelled((20, 20, 20), l2=(2, 18), l4=(5, 15), l1=(8, 12))
    for k, modality in enumerate(("flair", "t1", "t1ce", "t2")):
        nifti(
            tmp_path / f"BraTS2021_00005/BraTS2021_00005_{modality}.nii.gz",
            np.full((20,) * 3, k + 1, np.int16),
        )
    nifti(tmp_path / "BraTS2021_00005/BraTS2021_00005_seg.nii.gz", labels)
    found = loaded("brats2021", tmp_path)
    assert sorted(found) == [f"BraTS2021_00005 {m}" for m in ("FLAIR", "T1", "T1CE", "T2")]
    _, volume, there = found["BraTS2021_00005 T1CE"]
    assert volume.array.max() == 3
    plan = prepare.Plan((1, 1, 1), (16, 16, 16), regions=layouts.LAYOUTS["brats2021"].regions)
    regions = prepare.region_map(there, volume, plan, ct=False)
    assert plan.labels() == [{"name": "necrosis", "label": 1}, {"name": "enhancing", "label": 4}]
    assert np.array_equal(regions == 1, labels == 1) and np.array_equal(regions == 2, labels == 4)
    assert np.array_equal(regions == prepare.LESION, labels == 2)


def test_generic_folder_with_a_ring_around_the_tumour(tmp_path):
    mask = labelled((24, 24, 24), l1=(8, 16))
    image = np.where(np.indices(mask.shape)[2] < 18, 300, 0).astype(np.int16)  # air from x = 18 on
    nifti(tmp_path / "B_01/DCE1.nii.gz", image, (1.0, 1.0, 2.0))
    nifti(tmp_path / "B_01/DCE2.nii.gz", image, (1.0, 1.0, 2.0))
    nifti(tmp_path / "B_01/mask.nii.gz", mask, (1.0, 1.0, 2.0))
    nifti(tmp_path / "B_02/DCE1.nii.gz", image)  # not outlined
    found = loaded("folder", tmp_path)
    assert sorted(found) == ["B_01 DCE1", "B_01 DCE2"]
    _, volume, there = found["B_01 DCE1"]
    plan = prepare.Plan((1, 1, 1), (16, 16, 16), ring=4.0)
    regions = prepare.region_map(there, volume, plan, ct=False)
    assert plan.names == ["tumour", "peri-tumour"]
    assert [r["label"] for r in plan.labels()] == [1, 2]
    assert np.array_equal(regions == 1, mask == 1)
    ring = regions == 2
    assert ring[12, 12, 4:8].all() and not ring[12, 12, :4].any()  # 4 voxels of 1 mm in plane
    assert ring[6:8, 12, 12].all() and not ring[:6, 12, 12].any()  # 2 slices of 2 mm
    assert ring[12, 12, 16:18].all() and not ring[..., 18:].any()  # and no air


def test_a_mask_with_several_labels_needs_names(tmp_path):
    labels = labelled((12, 12, 12), l1=(2, 10), l2=(4, 6))
    nifti(tmp_path / "B_01/T1.nii.gz", np.ones(labels.shape, np.int16))
    nifti(tmp_path / "B_01/mask.nii.gz", labels)
    (_, volume, there) = loaded("folder", tmp_path)["B_01 T1"]
    with pytest.raises(InputError, match="--regions"):
        prepare.region_map(there, volume, prepare.Plan((1, 1, 1), (16, 16, 16)), ct=False)
    plan = prepare.Plan((1, 1, 1), (16, 16, 16), regions={"tumour": (7,)})
    with pytest.raises(InputError, match="no voxel of tumour"):
        prepare.region_map(there, volume, plan, ct=False)


def test_a_mask_on_another_grid_is_brought_to_the_image(tmp_path):
    labels = labelled((12, 12, 12), l2=(2, 10), l1=(4, 8))
    nifti(tmp_path / "B_01/T1.nii.gz", np.ones((24, 24, 24), np.int16), (0.5, 0.5, 0.5))
    nifti(tmp_path / "B_01/mask.nii.gz", labels)
    with pytest.warns(ImageWarning, match="another grid"):
        (_, _, there) = loaded("folder", tmp_path)["B_01 T1"]
    assert set(np.unique(there)) == {0, 1, 2} and abs((there == 1).sum() / 8 - 64) < 12


def test_a_sagittal_file_is_prepared_as_an_axial_one(tmp_path):
    """The same voxels stored with slices along x: crops, their features and the population are those of the axial file."""
    rng, labels = np.random.default_rng(0), labelled((12, 24, 28), l1=(3, 10))
    image = rng.integers(0, 200, labels.shape).astype(np.int16)
    for kind, order in (("axial", (0, 1, 2)), ("sagittal", (1, 2, 0))):
        for name, array in (("CT", image), ("mask", labels)):
            stored = sitk.GetImageFromArray(array)
            stored.SetSpacing((0.9, 0.8, 2.0))
            (tmp_path / kind / "P").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.PermuteAxes(stored, order), str(tmp_path / kind / f"P/{name}.nii.gz"))
    plan = prepare.Plan((0.7, 0.7, 1.5), (8, 16, 16), windows=2, varied=1, context=1)
    jobs = [next(layouts.cases("folder", tmp_path / kind)) for kind in ("axial", "sagittal")]
    axial, sagittal = (prepare.process(plan, 0, (0, case)) for case in jobs)
    assert read_image(jobs[1].image).array.shape == (28, 12, 24)
    volume, there = jobs[1].load()
    assert np.array_equal(volume.array, image) and np.array_equal(there, labels)
    assert volume.spacing == pytest.approx((0.9, 0.8, 2.0)) and volume.same_grid(jobs[0].load()[0])
    assert sagittal.population["tumour"] == pytest.approx(axial.population["tumour"], rel=1e-6)
    for a, b in zip(axial.crops, sagittal.crops, strict=True):
        assert (
            np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label) and a.features == b.features
        )


def test_an_axial_file_is_left_as_it_is():
    """Whichever way its axes run: turning one round would move the grid that pyradiomics resamples to."""
    labels = np.zeros((2, 3, 4), np.uint8)
    volume = Volume(np.ones(labels.shape), (1.0, 2.0, 3.0), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert all(a is b for a, b in zip(layouts.in_order(volume, labels), (volume, labels)))


def refused(capsys, *arguments) -> str:
    """The line that a script's parser ends with."""
    with pytest.raises(SystemExit) as end:
        main(*arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_modality_with_an_underscore_is_refused_at_once(tmp_path, capsys):
    """`--pairs` would write P_T1_ce_image.nii.gz, whose modality is ce."""
    nifti(tmp_path / "folder/P/T1_ce.nii.gz", np.ones((12, 12, 12), np.int16))
    nifti(tmp_path / "folder/P/mask.nii.gz", labelled((12, 12, 12), l1=(2, 10)))
    nifti(tmp_path / "nnunet/labelsTr/P.nii.gz", labelled((12, 12, 12), l1=(2, 10)))
    grid = ["--spacing", 1, 1, 1, "--crop", 16, 16, 16, "--out", tmp_path / "out"]
    assert "dataset.json" in refused(capsys, "nnunet", "--data", tmp_path / "nnunet", *grid)
    (tmp_path / "nnunet/dataset.json").write_text(json.dumps({"channel_names": {"0": "T1_ce"}}))
    for layout in ("folder", "nnunet"):
        for more in ([], ["--pairs"]):
            assert "call it 'T1-ce'" in refused(capsys, layout, "--data", tmp_path / layout, *grid, *more)
    assert not (tmp_path / "out").exists()


def test_a_file_without_modality_is_named(tmp_path, capsys):
    nifti(tmp_path / "P1_image.nii.gz", np.ones((4, 4, 4), np.int16))
    nifti(tmp_path / "image_image.nii.gz", np.ones((4, 4, 4), np.int16))
    for layout in ("lidc", "brats2015"):
        assert "<ID>_<MODALITY>" in refused(capsys, layout, "--data", tmp_path, "--out", tmp_path / "out")


# DICOM


GTV = dicom_tree.ball((5, 14, 12), 8.0)
NODE = dicom_tree.ball((8, 24, 20), 5.0)


def nsclc(folder: Path, kind: str, gtv=GTV, patient="LUNG1-001", name="GTV-1") -> np.ndarray:
    pytest.importorskip("pydicom")
    array = dicom_tree.image()
    study = folder / patient / "09-18-2008-StudyID-69331"
    slices = dicom_tree.ct_series(study / "0.000000-NA-82046", patient, array)
    if kind in ("RTSTRUCT", "both"):
        outlined = {"Lung-Left": NODE, "GTV-1": gtv, "gtv-2": NODE}
        dicom_tree.rtstruct(study / "0.000000-NA-28595/1-1.dcm", slices, outlined)
    if kind in ("SEG", "both"):
        pytest.importorskip("highdicom")
        segments = {name: gtv, "Lung": NODE}
        dicom_tree.seg(study / "300.000000-Segmentation-9.554/1-1.dcm", slices, segments)
    return array


def test_nsclc_rtstruct(tmp_path):
    array = nsclc(tmp_path, "RTSTRUCT")
    ((case, volume, labels),) = loaded("nsclc", tmp_path).values()
    assert case.patient == "LUNG1-001" and case.modality == "CT" and np.array_equal(volume.array, array)
    assert volume.spacing == pytest.approx(dicom_tree.SPACING)
    assert np.array_equal(labels == layouts.REGION, GTV)
    assert np.array_equal(labels == layouts.OTHER, NODE & ~GTV)  # GTV-2; the lung is nothing


def test_nsclc_rtstruct_with_a_hole(tmp_path):
    hollow = GTV & ~dicom_tree.ball((5, 14, 12), 3.5)
    nsclc(tmp_path, "RTSTRUCT", hollow)
    ((_, _, labels),) = loaded("nsclc", tmp_path).values()
    assert np.array_equal(labels == layouts.REGION, hollow)


@pytest.mark.parametrize("name", ["GTV-1", "segment 1"])
def test_nsclc_seg(name, tmp_path):
    """The tumour is known by its label, or by what it is coded as."""
    array = nsclc(tmp_path, "SEG", name=name)
    ((_, volume, labels),) = loaded("nsclc", tmp_path).values()
    assert np.array_equal(volume.array, array) and np.array_equal(labels == layouts.REGION, GTV)
    assert not (labels == layouts.OTHER).any()


def test_nsclc_takes_one_mask_per_scan_and_names_what_is_missing(tmp_path):
    nsclc(tmp_path, "both")
    nsclc(tmp_path, "none", patient="LUNG1-002")
    (case,) = layouts.cases("nsclc", tmp_path)
    assert case.patient == "LUNG1-001" and "28595" in str(case.mask)
    nsclc(tmp_path, "RTSTRUCT", np.zeros_like(GTV), patient="LUNG1-003")
    with pytest.raises(InputError, match="no voxel of GTV-1"):
        list(layouts.cases("nsclc", tmp_path))[1].load()


def test_nsclc_is_prepared(tmp_path):
    nsclc(tmp_path / "raw", "RTSTRUCT")
    grid = ["--spacing", *dicom_tree.SPACING, "--crop", 12, 16, 16]
    main("nsclc", "--data", tmp_path / "raw", "--out", tmp_path / "out", *grid, "--windows", 2)
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["layout"] == "nsclc" and meta["regions"] == [{"name": "tumour", "label": 1}]
    mean = dicom_tree.image()[GTV].mean()
    assert meta["population"]["CT"]["LUNG1-001"]["original_firstorder_Mean"] == pytest.approx(mean)


def disc(centre, radius) -> np.ndarray:
    """(y, x) bool: a square, whose border is a simple ring."""
    mask = np.zeros(dicom_tree.SHAPE[1:], bool)
    y, x = centre
    mask[y - radius : y + radius + 1, x - radius : x + radius + 1] = True
    return mask


def test_lidc_consensus_of_readers(tmp_path):
    """Two nodules: one that three readers outlined in different sizes, one by two, beside a place that one reader marked."""
    pytest.importorskip("pydicom")
    folder = tmp_path / "LIDC-IDRI-0001/study/series"
    slices = dicom_tree.ct_series(folder, "LIDC-IDRI-0001", dicom_tree.image())
    big = [[(k, disc((12, 10), r), True) for k in (5, 6, 7)] for r in (4, 3, 2)]
    big[0].append((6, disc((12, 10), 0), False))  # a point is no outline
    big[1].append((5, disc((11, 10), 1), False))  # cut out of the second reader's
    small = [[(1, disc((22, 20), 2), True)], [(1, disc((23, 20), 2), True)]]
    alone, point = [(9, disc((6, 22), 2), True)], [(10, disc((28, 5), 0), True)]
    readers = [[big[0], small[0]], [big[1], point], [small[1], big[2]], [alone]]
    dicom_tree.lidc_xml(tmp_path / "158.xml", slices[0].SeriesInstanceUID, readers)
    (tmp_path / "film.xml").write_text("<IdriReadMessage/>")
    found = {c.id: (c, *c.load()) for c in layouts.cases("lidc-dicom", tmp_path)}
    assert sorted(found) == ["LIDC-IDRI-0001_N_1", "LIDC-IDRI-0001_N_2"]
    assert {c.patient for c, _, _ in found.values()} == {"LIDC-IDRI-0001"}
    expected = np.zeros(dicom_tree.SHAPE, bool)
    expected[5:8] = disc((12, 10), 3)  # two of three readers
    expected[5] &= ~disc((11, 10), 1) | disc((12, 10), 2)  # where the second cut out, the third counts
    other = np.zeros_like(expected)
    other[1] = disc((22, 20), 2) | disc((23, 20), 2)  # half of two readers is one
    labels = found["LIDC-IDRI-0001_N_1"][2]
    assert np.array_equal(labels == layouts.REGION, expected)
    assert np.array_equal(labels == layouts.OTHER, other)
    assert np.array_equal(found["LIDC-IDRI-0001_N_2"][2] == layouts.REGION, other)


def test_lidc_counts_a_patient_s_nodules_over_all_scans(tmp_path):
    pytest.importorskip("pydicom")
    nodule = [(k, disc((12, 10), 3), True) for k in (5, 6, 7)]
    for name in ("first", "second"):
        slices = dicom_tree.ct_series(
            tmp_path / f"LIDC-IDRI-0001/{name}", "LIDC-IDRI-0001", dicom_tree.image()
        )
        dicom_tree.lidc_xml(tmp_path / f"{name}.xml", slices[0].SeriesInstanceUID, [[nodule], [nodule]])
    assert sorted(c.id for c in layouts.cases("lidc-dicom", tmp_path)) == [
        "LIDC-IDRI-0001_N_1",
        "LIDC-IDRI-0001_N_2",
    ]


def test_a_damaged_case_is_left_out_and_named(tmp_path, capsys):
    labels = labelled((20, 20, 20), l1=(4, 14))
    image = np.random.default_rng(0).integers(0, 200, labels.shape).astype(np.int16)
    for id in ("a", "b"):
        nifti(tmp_path / f"raw/{id}/CT.nii.gz", image)
        nifti(tmp_path / f"raw/{id}/mask.nii.gz", labels)
    (tmp_path / "raw/a/mask.nii.gz").write_bytes(b"not an image")
    grid = ["--spacing", 1, 1, 1, "--crop", 16, 16, 16, "--windows", 1, "--context", 1]
    main("folder", "--data", tmp_path / "raw", "--out", tmp_path / "out", *grid)
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert list(meta["left_out"]) == ["a CT"] and list(meta["population"]["CT"]) == ["b"]
    assert "a CT: left out" in capsys.readouterr().out


def test_jobs_don_t_change_the_crops(tmp_path):
    labels = labelled((20, 20, 20), l1=(4, 14))
    for k, id in enumerate("abc"):
        image = np.random.default_rng(k).integers(0, 200, labels.shape).astype(np.int16)
        nifti(tmp_path / f"raw/{id}/CT.nii.gz", image)
        nifti(tmp_path / f"raw/{id}/mask.nii.gz", labels)
    grid = ["--spacing", 1, 1, 1, "--crop", 16, 16, 16, "--windows", 1, "--context", 2, "--procedural", 1]
    for jobs in (1, 2):
        main("folder", "--data", tmp_path / "raw", "--out", tmp_path / str(jobs), *grid, "--jobs", jobs)
    for name in ("images.npy", "labels.npy", "features.npy"):
        a, b = (np.load(tmp_path / str(jobs) / name) for jobs in (1, 2))
        assert np.array_equal(a, b, equal_nan=name == "features.npy"), name


def test_held_out_patients_are_written_as_pairs_and_no_others(tmp_path):
    labels = labelled((16, 16, 16), l4=(3, 13), l1=(6, 10))
    for k in range(6):
        for modality in ("t1ce", "flair"):
            image = np.full(labels.shape, 100 * (k + 1), np.int16)
            nifti(tmp_path / f"raw/BraTS2021_{k:05d}/BraTS2021_{k:05d}_{modality}.nii.gz", image)
        nifti(tmp_path / f"raw/BraTS2021_{k:05d}/BraTS2021_{k:05d}_seg.nii.gz", labels)
    hold = ["brats2021", "--data", tmp_path / "raw", "--hold-out", 3, "--pairs"]
    main(*hold, "--out", tmp_path / "train")
    main(*hold, "--out", tmp_path / "val", "--held-out")
    train, val = ({c.patient for c in layouts.cases("sts", tmp_path / f)} for f in ("train", "val"))
    assert len(train) == 4 and len(val) == 2 and not train & val
    case = next(iter(layouts.cases("sts", tmp_path / "val")))
    assert case.modality in ("T1CE", "FLAIR")
    volume, there = case.load()
    assert np.array_equal(there, labels)  # labels as the bundle names them
    assert (volume.array == 500).all()  # the median of what isn't background


def test_held_out_needs_the_number_and_a_number_that_leaves_some(tmp_path, capsys):
    for k in range(2):
        nifti(tmp_path / f"raw/{k}/CT.nii.gz", np.ones((4, 4, 4), np.int16))
        nifti(tmp_path / f"raw/{k}/mask.nii.gz", labelled((4, 4, 4), l1=(1, 3)))
    grid = ["--spacing", 1, 1, 1, "--crop", 16, 16, 16, "--out", tmp_path / "out", "--held-out"]
    assert "give both" in refused(capsys, "folder", "--data", tmp_path / "raw", *grid)
    assert "--hold-out 9" in refused(capsys, "folder", "--data", tmp_path / "raw", *grid, "--hold-out", 9)
    assert "no cases" in refused(capsys, "folder", "--data", tmp_path / "nowhere", *grid, "--hold-out", 2)
