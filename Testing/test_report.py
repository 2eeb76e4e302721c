"""The report: pictures in the right orientation, the right numbers, and one file that loads nothing."""

import base64
import io
import re
import struct
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from TumorSynthLib.errors import InputError
from TumorSynthLib.png import encode_png, enlarge, resample
from TumorSynthLib.report import ReportEdit, write_report
from TumorSynthLib.report_page import number, signed
from TumorSynthLib.sheet import sheet
from TumorSynthLib.slices import PLANES, centre_of, crop_around, cut, display_window, outline
from TumorSynthLib.volume import Volume

MEAN, CONTRAST = "original_firstorder_Mean", "original_glcm_Contrast"
AXIAL, CORONAL, SAGITTAL = PLANES


def decode_png(data: bytes) -> np.ndarray:
    """Independent reader of the two kinds of PNG that are written."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    channels = {0: 1, 2: 3}[kind]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert (rows[:, 0] == 2).all()
    pixels = np.cumsum(rows[:, 1:].astype(np.int64), axis=0) % 256
    return pixels.astype(np.uint8).reshape((height, width) if channels == 1 else (height, width, 3))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 3, 3), (60, 40)])
def test_png_is_lossless(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


def test_png_is_read_by_another_library(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3)).astype(np.uint8)
    assert np.array_equal(np.array(image.open(io.BytesIO(encode_png(pixels)))), pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_png_refuses_what_it_cannot_write(pixels):
    with pytest.raises(ValueError, match="picture"):
        encode_png(pixels)


def test_resampling_keeps_ramps_and_averages():
    ramp = np.tile(np.arange(8.0), (3, 1))
    large = resample(ramp, 6, 16)
    np.testing.assert_allclose(large[0, 1:-1], np.arange(1, 15) * 0.5 - 0.25, atol=1e-5)
    checker = np.indices((40, 40)).sum(axis=0) % 2
    np.testing.assert_allclose(resample(checker, 4, 4), 0.5, atol=0.03)
    np.testing.assert_array_equal(enlarge(np.array([[1, 2]]), 2, 4), [[1, 1, 2, 2]] * 2)


def oriented(axes: str) -> tuple[Volume, np.ndarray]:
    """A volume stored with index axes (x, y, z) towards `axes` (of LRPAIS), with marks on the patient's sides.

    In LPS order (z, y, x) the tumour is at the centre, 100 is towards the head, 200 to the left, 300 to the front.
    """
    lps = np.zeros((9, 11, 13), np.int16)
    lps[8, 5, 6], lps[4, 5, 12], lps[4, 0, 6] = 100, 200, 300
    mask = np.zeros(lps.shape, bool)
    mask[4, 5, 6] = True
    steps = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    world = [steps[letter] for letter in axes]
    order = [2 - axis for axis, _ in world][::-1]  # array axes of lps, in the file's (K, J, I)
    flips = tuple(slice(None, None, sign) for _, sign in world[::-1])
    direction = np.zeros((3, 3))
    for index, (axis, sign) in enumerate(world):
        direction[axis, index] = sign
    stored = [np.ascontiguousarray(array.transpose(order)[flips]) for array in (lps, mask)]
    return Volume(stored[0], (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), tuple(direction.ravel())), stored[1]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI", "PSL", "SLA", "IAR", "ALI"])
def test_pictures_follow_the_radiological_convention_for_every_axis_order(axes):
    volume, mask = oriented(axes)
    crop = crop_around(volume, volume, mask)
    centre = centre_of(crop.mask)
    axial = cut(crop.before, AXIAL, centre[0])
    assert axial.shape == (11, 13)
    assert axial[5, 12] == 200  # the patient's left is on the right of the picture
    assert axial[0, 6] == 300  # the front is on top
    coronal = cut(crop.before, CORONAL, centre[1])
    assert coronal[0, 6] == 100  # the head is on top
    assert coronal[4, 12] == 200
    sagittal = cut(crop.before, SAGITTAL, centre[2])
    assert sagittal[0, 5] == 100
    assert sagittal[4, 0] == 300  # the front is on the left


def test_a_crop_holds_the_tumour_and_its_margin_only():
    array = np.zeros((60, 60, 60), np.int16)
    mask = np.zeros(array.shape, bool)
    mask[30, 30, 30] = True
    volume = Volume(array, (1.0, 2.0, 5.0))
    crop = crop_around(volume, volume, mask, margin_mm=10)
    assert crop.before.shape == (5, 11, 21)
    assert crop.spacing == (5.0, 2.0, 1.0)
    assert crop.tilt == 0


def test_an_oblique_volume_tells_its_tilt():
    angle = np.radians(20)
    c, s = np.cos(angle), np.sin(angle)
    volume = Volume(np.zeros((5, 5, 5)), (1.0, 1.0, 1.0), direction=(c, -s, 0, s, c, 0, 0, 0, 1))
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    assert crop_around(volume, volume, mask).tilt == pytest.approx(20)


def test_windows_suit_the_tissue():
    volume, mask = oriented("LPS")
    lung, soft = volume.with_array(volume.array - 800), volume.with_array(volume.array + 40)
    assert display_window(crop_around(lung, lung, mask), "CT") == (-1350, 150)
    assert display_window(crop_around(soft, soft, mask), "CT") == (-160, 240)
    low, high = display_window(crop_around(soft, soft, mask), "T1")
    assert 40 <= low < high <= 340


def test_an_outline_runs_around_the_mask():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 2:5] = True
    assert sorted(outline(mask)) == [((2, 1), (2, 3)), ((2, 1), (5, 1)), ((2, 3), (5, 3)), ((5, 1), (5, 3))]
    mask[2, 3] = False
    length = sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in outline(mask))
    assert length == 12
    assert outline(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (1.23456, "1.235"), (-2.5, "−2.5"), (12345.6, "12,346"), (1.5e9, "1.50 × 10⁹"),
     (-2e-5, "−2.00 × 10⁻⁵"),
     (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text
    assert signed(0.001) == "0.00"
    assert signed(-1.5) == "−1.50"


def make_edit(name="Synthesize", *, moved=False, removed=False, **changes) -> ReportEdit:
    rng = np.random.default_rng(0)
    array = rng.normal(40, 10, (12, 20, 24)).astype(np.int16)
    mask = np.zeros(array.shape, bool)
    mask[4:8, 6:12, 8:14] = True
    after = array.copy()
    after[mask] += 50
    now = np.roll(mask, (0, 4, 6), (0, 1, 2)) if moved else np.zeros_like(mask) if removed else mask
    after[now] += 30
    volume = Volume(array, (1.0, 1.0, 3.0))
    values = {
        "volume": volume.with_array(after), "mask": now, "patch": None,
        "asked": {CONTRAST: 5.0, MEAN: 100.0}, "used": {CONTRAST: 5.0, MEAN: 100.0},
        "reached": {MEAN: 104.0, CONTRAST: 5.2, "original_shape_MeshVolume": 432.0},
        "before": {MEAN: 40.0, CONTRAST: 3.0, "original_shape_MeshVolume": 432.0},
        "timing": {"network": 1.5, "total": 2.25}, "provenance": {"seed": 7, "model": "tiny"}, "warnings": (),
    }  # fmt: skip
    names = (MEAN, CONTRAST)
    population = SimpleNamespace(names=names, values=np.array([[90.0, 4.0], [110.0, 6.0]]))
    result = SimpleNamespace(**{**values, **changes})
    return ReportEdit(name, volume, result, mask, population, "CT")


class Outline(HTMLParser):
    """Checks that tags nest, and collects attributes and text."""

    void = {"meta", "input", "br"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def written(tmp_path):
    def run(*edits, title="A <b>bold</b> title"):
        path = write_report(tmp_path / "report", title, edits)
        text = path.read_text(encoding="utf-8")
        return SimpleNamespace(path=path, text=text, html=Outline(text))

    return run


def pictures_of(html: Outline) -> list[np.ndarray]:
    sources = [attrs["href"] for tag, attrs in html.tags if tag == "image"]
    return [decode_png(base64.b64decode(source.removeprefix("data:image/png;base64,"))) for source in sources]


def test_a_report_is_one_file_that_loads_nothing(written):
    report = written(make_edit(), make_edit("Remove", removed=True, asked={}, used={}))
    assert report.path.name == "report.html"
    assert sorted(path.name for path in report.path.parent.iterdir()) == [
        "01-synthesize.png", "02-remove.png", "report.html",
    ]  # fmt: skip
    assert not re.search(r"https?://|<script|@import|url\(", report.text)
    assert report.text.count("For research use only; not for diagnosis.") == 1
    assert "<b>bold" not in report.text
    assert all(
        attrs["href"].startswith(("data:image/png;base64,", "#"))
        for _, attrs in report.html.tags
        if "href" in attrs
    )
    assert decode_png((report.path.parent / "01-synthesize.png").read_bytes()).ndim == 3


def test_an_edit_shows_nine_pictures_with_alternative_texts(written):
    html = written(make_edit()).html
    pictures = pictures_of(html)
    assert len(pictures) == 9
    labels = [attrs["aria-label"] for tag, attrs in html.tags if tag == "svg"][:9]
    for label, plane in zip(labels[::3], ("axial", "coronal", "sagittal")):
        assert label.startswith(f"Synthesize: {plane} slice through the tumour, before")
    assert sum(attrs.get("class") == "contour" for _, attrs in html.tags) == 9
    before, after, difference = pictures[:3]
    assert before.shape == after.shape == difference.shape[:2]
    assert before.shape[0] / before.shape[1] == pytest.approx(20 / 24, rel=0.01)
    assert pictures[3].shape[0] / pictures[3].shape[1] == pytest.approx(12 * 3 / 24, rel=0.01)
    assert after.astype(int).sum() > before.astype(int).sum()


def test_the_difference_is_black_outside_the_tumour(written):
    difference = pictures_of(written(make_edit()).html)[2]
    y, x = (np.arange(n) * count // n for n, count in zip(difference.shape[:2], (20, 24)))
    inside = np.ix_((y >= 6) & (y < 12), (x >= 8) & (x < 14))
    assert difference[inside].max(axis=2).min() > 0
    outside = difference.copy()
    outside[inside] = 0
    assert outside.max() == 0


def test_a_tumour_reshaped_in_its_place_is_shown_once(written):
    smaller = np.zeros((12, 20, 24), bool)
    smaller[4:8, 6:12, 8:13] = True
    report = written(make_edit("Reshape", mask=smaller))
    assert len(pictures_of(report.html)) == 9
    assert "Where it was" not in report.text


def test_a_moved_tumour_is_shown_in_both_places(written):
    report = written(make_edit("Move", moved=True))
    assert len(pictures_of(report.html)) == 18
    assert "Where it was" in report.text
    assert "Where it is now" in report.text


def test_a_removed_tumour_is_shown_where_it_was(written):
    report = written(make_edit("Remove", removed=True, asked={}, used={}))
    assert len(pictures_of(report.html)) == 9
    assert "None were asked for." in report.text
    assert "All 3 measured features" in report.text


def test_the_table_has_asked_features_first_with_their_miss_in_sigma(written):
    text = written(make_edit()).text
    rows = re.findall(r"<tr>(<td.*?)</tr>", text)
    plain = [re.sub(r"<[^>]+>", " ", row).split() for row in rows]
    assert plain[0] == ["First", "order", "·", "Mean", "HU", "40", "100", "104", "+0.40", "σ"]
    assert plain[1][:3] == ["GLCM", "·", "Contrast"]
    assert plain[1][-5:] == ["3", "5", "5.2", "+0.20", "σ"]
    assert 'class="fair">+0.40' in text
    assert 'class="good">+0.20' in text
    assert "Used" not in text


def test_the_editors_own_spread_comes_first(written):
    assert "+4.00 σ" in written(make_edit(spread={MEAN: 1.0})).text


def test_a_changed_request_shows_what_was_used(written):
    text = written(make_edit(used={CONTRAST: 4.0, MEAN: 100.0})).text
    assert "<th>Used</th>" in text


def test_bars_stand_for_z_scores(written):
    html = written(make_edit()).html
    [label] = [
        attrs["aria-label"] for tag, attrs in html.tags if tag == "svg" and attrs.get("class") == "plot"
    ]
    assert "Mean: asked 0.00 σ, reached +0.40 σ" in label
    widths = [float(attrs["width"]) for tag, attrs in html.tags if tag == "rect"]
    assert widths[0] == 1.5  # a mean asked for still has a visible bar
    assert widths[1] == pytest.approx(2 * widths[3], rel=0.01)


def test_without_a_population_differences_are_in_percent(written):
    edit = make_edit()
    report = written(ReportEdit(edit.name, edit.original, edit.result, edit.mask))
    assert "+4.0 %" in report.text
    assert 'class="plot"' not in report.text


@pytest.mark.parametrize(
    "name, words",
    [("shape_Maximum3DDiameter", "Maximum 3D Diameter"), ("firstorder_90Percentile", "90 Percentile"),
     ("glcm_Imc1", "Imc1"), ("glszm_SmallAreaHighGrayLevelEmphasis", "Small Area High Gray Level Emphasis")],
)  # fmt: skip
def test_feature_names_are_split_into_words(written, name, words):
    name = f"original_{name}"
    assert f"· {words}" in written(make_edit(asked={name: 1.0}, used={name: 1.0}, reached={name: 1.0})).text


def test_warnings_and_provenance_are_shown_escaped(written):
    text = written(make_edit(warnings=("<far> outside",), provenance={"note": "a<b", "seed": 7})).text
    assert "&lt;far&gt; outside" in text
    assert "&quot;seed&quot;: 7" in text
    assert "a&lt;b" in text
    assert "network 1.5 s, total 2.2 s" in text


def test_a_long_request_shows_its_first_features(written):
    names = [f"original_glrlm_Feature{i:02d}" for i in range(30)]
    values = dict.fromkeys(names, 1.0)
    text = written(make_edit(asked=values, used=values, reached=values)).text
    assert "The first 14 of 30." in text
    assert text.count("original_glrlm_Feature29") == 1


def test_the_same_edits_give_the_same_report(written, tmp_path):
    first = written(make_edit()).text
    assert written(make_edit()).text == first


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no edit"):
        write_report(tmp_path, "title", [])
    edit = make_edit(removed=True)
    with pytest.raises(InputError, match="masks are empty"):
        write_report(tmp_path, "title", [ReportEdit("x", edit.original, edit.result, None)])


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(InputError, match="can't be written"):
        write_report(tmp_path / "report", "title", [make_edit()])


def test_report_says_what_made_the_voxels_and_where_they_could_change(tmp_path):
    for plan, texts in (
        ({"engine": "exemplar", "zone_voxels": 15301, "reach_mm": 8.4, "stage": "own"},
         ("own tissue, as it was", "15,301 voxels could change, up to 8.4 mm from")),
        ({"engine": "bridge"}, ("Drawn by the model&#x27;s network (engine bridge).",)),
    ):  # fmt: skip
        edit = make_edit()
        edit.result.provenance = {"operation": "synthesize", "plan": plan}
        text = write_report(tmp_path / plan["engine"], "title", [edit]).read_text(encoding="utf-8")
        assert all(said in text for said in texts)


def test_tumours_of_a_sheet_stand_in_line():
    """A small and a large tumour's pictures have one size: the second cell starts where half of the sheet does."""
    volume = Volume(np.random.default_rng(0).normal(0, 9, (90, 90, 90)).astype(np.float32), (1.0, 1.0, 1.0))
    small, large = np.zeros((2, 90, 90, 90), bool)
    small[38:42, 38:42, 38:42] = large[30:50, 30:50, 30:50] = True
    pair = sheet([("small", volume, volume, small), ("large", volume, volume, large)], "CT")
    alone = sheet([("small", volume, volume, small)], "CT")
    assert pair.shape[0] == alone.shape[0] and abs(pair.shape[1] - 2 * alone.shape[1]) <= 8


def test_tissue_of_a_tumour_in_lung_is_shown_where_it_has_shades():
    """In the window of lung a tumour is white all over, before and after."""
    array = np.full((60, 60, 60), -850.0, np.float32)
    mask = np.zeros(array.shape, bool)
    mask[22:38, 22:38, 22:38] = True
    before, after = array.copy(), array.copy()
    before[mask], after[mask] = 60.0, 160.0
    volumes = [Volume(a, (1.0, 1.0, 1.0)) for a in (before, after)]
    shown = sheet([("higher contrast", *volumes, mask)], "CT")[20:]
    grey = [np.percentile(half, 99) for half in np.array_split(shown[:, : shown.shape[1] // 2], 2, axis=1)]
    assert grey[1] - grey[0] > 50  # of the axial slices
    after[0, 0, 0] = after[20, 20, 20] = 0.0  # the surroundings change: lung is to be seen
    shown = sheet([("moved", *volumes, mask)], "CT")[20:]
    grey = [np.percentile(half, 99) for half in np.array_split(shown[:, : shown.shape[1] // 2], 2, axis=1)]
    assert 0 <= grey[1] - grey[0] < 25


def test_the_demonstrations_edits_can_be_written():
    from TumorSynthLib import demo
    from TumorSynthLib.series_figures import _GLYPHS, label

    ball = Volume(np.zeros((9, 9, 9), np.int16), (1.0, 1.0, 1.0)), np.pad(np.ones((5, 5, 5), bool), 2)
    case = demo.Case("", False, *ball, ball, (0.0, 0.0, 0.0))
    names = demo._edits(case, {demo.CONTRAST: 20.0}, "CT")
    assert set("".join(names).upper()) - {" "} <= set(_GLYPHS)
    assert label("AT").shape == (15, 24, 3) and not np.array_equal(label("A"), label("T"))
