"""Installing models from files, folders, addresses and the catalogue; malicious archives."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from nasty_server import Behaviour, serve
from tiny_bundle import tiny_bundle

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models import find, install, list_models, load_bundle, load_catalogue, plan_install, remove
from TumorSynthLib.models import installation as module
from TumorSynthLib.models.download import Rules
from TumorSynthLib.models.lock import locked
from TumorSynthLib.models.write import pack

RULES = Rules(attempts=3, first_pause_s=0.001, timeout_s=60, allow_loopback_http=True)


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """Empty user folder, no bundled models, no catalogue."""
    folder = tmp_path / "models"
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(folder))
    monkeypatch.delenv("TUMORSYNTH_CATALOGUE", raising=False)
    bundled = tmp_path / "bundled"
    for name in ("store", "installation", "catalogue"):
        monkeypatch.setattr(f"TumorSynthLib.models.{name}.bundled_folder", lambda: bundled)
    return folder


@pytest.fixture
def packed(tmp_path):
    """A zipped bundle, and its catalogue entry."""
    bundle = tiny_bundle(tmp_path / "made" / "tiny")
    (bundle.folder / "LICENSE.txt").write_text("CC0")
    path = tmp_path / "tiny.tsm.zip"
    return path, pack(bundle.folder, path)


def left_in(models: Path) -> list[str]:
    """What lies in the models' folder besides the lock."""
    return sorted(path.name for path in models.iterdir() if path.name != ".lock") if models.exists() else []


def test_a_zip_is_planned_then_installed(packed, models):
    path, _ = packed
    plan = plan_install(path)
    assert (plan.kind, plan.id, plan.version, plan.licence) == ("archive", "tiny", "1.0.0", "CC0-1.0")
    assert plan.bytes > 1000
    assert any("CC0-1.0" in line for line in plan.lines())
    assert not models.exists()
    stages = []
    bundle = install(plan, progress=lambda stage, fraction: stages.append(stage))
    bundle.verify()
    assert bundle.folder == models / "tiny"
    assert set(stages) == {"unpack", "check"}
    assert left_in(models) == ["tiny"]
    assert (models / "tiny" / "LICENSE.txt").read_text() == "CC0"
    assert find("tiny").sha256 == bundle.sha256


def test_a_folder_is_installed_without_its_strangers(tmp_path, models):
    source = tiny_bundle(tmp_path / "mine").folder
    (source / "notes.md").write_text("hello")
    (source / "checkpoint.safetensors").write_bytes(b"not of the bundle")
    install(source)
    names = {path.name for path in (models / "tiny").iterdir()}
    assert names == {"bundle.json", "network.safetensors", "population.safetensors", "notes.md"}


def test_the_given_hash_of_a_file_is_checked(packed, models):
    path, entry = packed
    with pytest.raises(ModelError, match="not the expected file"):
        install(path, sha256="0" * 64)
    assert left_in(models) == []
    install(path, sha256=entry["sha256"].upper())
    assert left_in(models) == ["tiny"]


def test_a_new_version_replaces_the_old_one(packed, tmp_path, models):
    install(packed[0])
    newer = tiny_bundle(tmp_path / "newer", version="1.1.0")
    plan = plan_install(newer.folder)
    assert plan.replaces == "1.0.0"
    assert any("replaces version 1.0.0" in line for line in plan.lines())
    assert install(plan).version == "1.1.0"
    assert left_in(models) == ["tiny"]


def test_a_damaged_version_does_not_replace_a_good_one(packed, tmp_path, models):
    install(packed[0])
    folder = tiny_bundle(tmp_path / "newer", version="1.1.0").folder
    path = folder / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        install(folder)
    assert find("tiny").version == "1.0.0"
    assert left_in(models) == ["tiny"]


def test_a_rename_that_fails_brings_the_old_version_back(packed, tmp_path, models, monkeypatch):
    install(packed[0])
    real = os.rename

    def refuse(source, target):
        if Path(source).name.startswith(".staging-"):
            raise PermissionError(13, "in use")
        real(source, target)

    monkeypatch.setattr(module.os, "rename", refuse)
    with pytest.raises(ModelError, match="close the programs"):
        install(tiny_bundle(tmp_path / "newer", version="1.1.0").folder)
    assert find("tiny").version == "1.0.0"
    assert left_in(models) == ["tiny"]


def test_what_a_killed_installation_left_is_tidied(packed, models):
    install(packed[0])
    (models / "tiny").rename(models / ".replaced-tiny")  # killed between the two renames
    (models / ".staging-abc").mkdir()
    other = tiny_bundle(models.parent / "other", id="other").folder
    install(other)
    assert left_in(models) == ["other", "tiny"]
    find("tiny").verify()


def test_removing(packed, models, tmp_path):
    tiny_bundle(tmp_path / "bundled" / "fixed", id="fixed")
    install(packed[0])
    assert remove("tiny") == models / "tiny"
    assert left_in(models) == []
    with pytest.raises(ModelError, match="came with the software"):
        remove("fixed")
    for name in ("tiny", "../made", "", ".lock"):
        with pytest.raises(ModelError, match="is installed in"):
            remove(name)
    assert (tmp_path / "made" / "tiny").is_dir()


def test_removing_a_users_copy_shows_the_bundled_one_again(models, tmp_path):
    tiny_bundle(tmp_path / "bundled" / "tiny")
    install(tiny_bundle(tmp_path / "mine", version="3.0.0").folder)
    assert find("tiny").version == "3.0.0"
    remove("tiny")
    assert find("tiny").version == "1.0.0"


@pytest.mark.parametrize("name", ["model.pt", "weights.ckpt", "model.pkl"])
def test_pickles_are_refused_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=f"{name} .*run any program"):
        plan_install(path)
    with pytest.raises(ModelError, match=f"{name} .*run any program"):
        plan_install(f"https://example.org/{name}#sha256={'0' * 64}")


def test_unknown_sources_are_explained(tmp_path):
    with pytest.raises(ModelError, match="neither a model of the catalogue"):
        plan_install("nothing-here")
    path = tmp_path / "model.tar"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match="not a .zip archive"):
        plan_install(path)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelError, match="not a readable zip"):
        plan_install(tmp_path / "broken.zip")


# malicious archives


def add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int = 0) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def archive_with(tmp_path: Path, change=None, extra=()) -> Path:
    """A zip of a tiny bundle whose members went through `change(name, data)`, then `extra` (name, data, mode)."""
    folder = tiny_bundle(tmp_path / "source").folder
    path = tmp_path / "bad.tsm.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("bundle.json", "network.safetensors", "population.safetensors"):
            data = (folder / name).read_bytes()
            for new in change(name, data) if change else [(name, data)]:
                add(archive, *new)
        for item in extra:
            add(archive, *item)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "/evil.txt",
        "a/../../evil.txt",
        "..\\evil.txt",
        "C:\\evil.txt",
        "x/y/z.txt",
        "..",
        "nul.txt",
        ".ssh",
    ],
)
def test_names_that_leave_the_folder_are_refused(tmp_path, models, name):
    path = archive_with(tmp_path, extra=[(name, b"x")])
    with pytest.raises(ModelError, match="plain file name|Windows"):
        install(path)
    assert left_in(models) == []
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_an_archive_are_refused(tmp_path, models):
    path = archive_with(tmp_path, extra=[("link.txt", b"/etc/passwd", stat.S_IFLNK | 0o777)])
    with pytest.raises(ModelError, match="'link.txt', which is a link"):
        install(path)
    assert left_in(models) == []


@pytest.mark.parametrize("name, message", [("model.pth", "run any program"), ("tool.exe", "does not list")])
def test_strangers_in_an_archive_are_refused(tmp_path, models, name, message):
    with pytest.raises(ModelError, match=message):
        install(archive_with(tmp_path, extra=[(name, b"x")]))
    assert left_in(models) == []


def test_a_bomb_is_refused_without_unpacking_it(tmp_path, models):
    size = 64 * 2**20

    def bomb(name, data):
        if name == "network.safetensors":
            return [(name, bytes(size))]
        if name == "bundle.json":
            manifest = json.loads(data)
            manifest["files"]["network.safetensors"]["bytes"] = size
            data = json.dumps(manifest).encode()
        return [(name, data)]

    path = archive_with(tmp_path, bomb)
    assert path.stat().st_size < 200_000
    with pytest.raises(ModelError, match="which no model does"):
        install(path)
    assert left_in(models) == []


def test_a_member_larger_than_it_says_is_refused(tmp_path, models):
    path = archive_with(tmp_path)
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("network.safetensors").file_size
    data = path.read_bytes()
    data = data.replace(size.to_bytes(4, "little"), (size - 8).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(ModelError, match="bundle.json says|damaged|larger than it says"):
        install(path)
    assert left_in(models) == []


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda n, d: [] if n == "bundle.json" else [(n, d)], "no bundle.json"),
        (lambda n, d: [] if n == "network.safetensors" else [(n, d)], "lacks 'network.safetensors'"),
        (lambda n, d: [(n, d + b"x")] if n == "network.safetensors" else [(n, d)], "bundle.json says"),
        (lambda n, d: [(n, d[::-1])] if n == "network.safetensors" else [(n, d)], "SHA-256 differs"),
        (lambda n, d: [(n, d), (n.upper(), d)] if n == "bundle.json" else [(n, d)], "twice"),
        (lambda n, d: [(n, d), *[(f"{n[0]}{i}.txt", b"") for i in range(100)]], "at most 128"),
    ],
    ids=["no manifest", "missing", "other size", "other bytes", "twice", "many"],
)
def test_archives_that_do_not_fit_their_manifest_are_refused(tmp_path, models, change, message):
    with pytest.raises(ModelError, match=message):
        install(archive_with(tmp_path, change))
    assert left_in(models) == []


def test_a_truncated_archive_is_refused(packed, models):
    path, _ = packed
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="not a readable zip"):
        install(path)
    assert left_in(models) == []


def test_a_flipped_bit_in_an_archive_is_found(packed, models):
    path, _ = packed
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("tiny/network.safetensors")
    data[info.header_offset + info.compress_size // 2 + 60] ^= 4
    path.write_bytes(data)
    with pytest.raises(ModelError, match="damaged|SHA-256"):
        install(path)
    assert left_in(models) == []


# addresses and the catalogue


def test_an_address_needs_a_hash_and_https(packed):
    digest = packed[1]["sha256"]
    with pytest.raises(ModelError, match="append '#sha256=…'"):
        plan_install("https://example.org/tiny.tsm.zip")
    with pytest.raises(ModelError, match="over https only"):
        plan_install(f"http://example.org/tiny.tsm.zip#sha256={digest}")
    with pytest.raises(ModelError, match="differs from the stated one"):
        plan_install(f"https://example.org/tiny.tsm.zip#sha256={digest}", sha256="0" * 64)
    with pytest.raises(ModelError, match="not a SHA-256"):
        plan_install("https://example.org/tiny.tsm.zip#sha256=123")


def test_an_address_is_downloaded_resumed_and_installed(packed, models):
    path, entry = packed
    nasty = Behaviour(path.read_bytes(), drop_after=[1000, 500])
    with serve(nasty) as base:
        plan = plan_install(f"{base}/tiny.tsm.zip#sha256={entry['sha256']}", rules=RULES)
        assert plan.bytes == entry["bytes"]
        assert [method for method, _, _ in nasty.requests] == ["HEAD"]
        bundle = install(plan, rules=RULES)
        assert left_in(models) == ["tiny"]
        assert len(nasty.gets()) == 3
        install(plan, rules=RULES)
        assert len(nasty.gets()) == 3  # it is there already
        (bundle.folder / "network.safetensors").unlink()
        install(plan, rules=RULES).verify()  # damaged meanwhile: fetched again
        assert len(nasty.gets()) == 4


def test_an_interrupted_download_leaves_only_the_part(packed, models):
    path, entry = packed
    nasty = Behaviour(path.read_bytes(), drop_after=[1000, 0, 0, 0, 0])
    with serve(nasty) as base:
        source = f"{base}/tiny.tsm.zip#sha256={entry['sha256']}"
        with pytest.raises(ModelError, match="broke off"):
            install(source, rules=RULES)
        assert left_in(models) == [".downloads"]
        parts = sorted(item.suffix for item in (models / ".downloads").iterdir())
        assert parts == [".json", ".part"]
        nasty.drop_after = []
        install(source, rules=RULES)
    assert nasty.gets()[-1]["Range"] == "bytes=1000-"
    assert left_in(models) == ["tiny"]


def test_a_server_that_lies_about_the_hash_installs_nothing(packed, models):
    path, entry = packed
    install(path)
    nasty = Behaviour(path.read_bytes()[::-1])
    with serve(nasty) as base, pytest.raises(ModelError, match="its SHA-256 is"):
        install(f"{base}/tiny.tsm.zip#sha256={entry['sha256']}", rules=RULES)
    assert left_in(models) == ["tiny"]
    find("tiny").verify()


def write_catalogue(path: Path, *entries: dict) -> str:
    path.write_text(json.dumps({"format": 1, "models": list(entries)}), encoding="utf-8")
    return str(path)


def test_a_catalogue_file_can_lie_beside_its_models(packed, models, tmp_path, monkeypatch):
    source = write_catalogue(tmp_path / "catalogue.json", packed[1])
    monkeypatch.setenv("TUMORSYNTH_CATALOGUE", source)
    [row] = list_models().models
    assert (row["id"], row["status"], row["bytes"]) == ("tiny", "available", packed[1]["bytes"])
    install("tiny")
    assert [row["status"] for row in list_models().models] == ["installed"]
    newer = {**packed[1], "version": "1.10.0"}
    write_catalogue(tmp_path / "catalogue.json", newer)
    assert list_models().models[0]["update"] == "1.10.0"
    with pytest.raises(ModelError, match="holds tiny 1.0.0, expected tiny 1.10.0"):
        install("tiny")
    assert find("tiny").version == "1.0.0"


def test_a_catalogue_from_the_web_gives_addresses_relative_to_itself(packed, models, tmp_path):
    path, entry = packed
    content = json.dumps({"format": 1, "models": [entry]}).encode()
    with serve(Behaviour(content)) as base:
        catalogue = load_catalogue(f"{base}/models/catalogue.json", allow_loopback_http=True)
    assert catalogue.get("tiny").url == f"{base}/models/tiny.tsm.zip"
    nasty = Behaviour(path.read_bytes())
    with serve(nasty) as base:
        moved = {**entry, "url": f"{base}/tiny.tsm.zip"}
        catalogue = load_catalogue(write_catalogue(tmp_path / "c.json", moved))
        plan = plan_install("tiny", catalogue=catalogue, rules=RULES)
        assert (plan.title, plan.licence, plan.bytes) == ("Tiny model for tests", "CC0-1.0", entry["bytes"])
        assert nasty.requests == []
        install(plan, rules=RULES)
    assert left_in(models) == ["tiny"]


@pytest.mark.parametrize(
    "key, value",
    [("id", "../x"), ("sha256", "abc"), ("bytes", -1), ("url", ""), ("licence", None), ("version", "new")],
)
def test_a_wrong_catalogue_is_refused_by_key(packed, tmp_path, key, value):
    with pytest.raises(ModelError, match=f"model 1: the key '{key}'"):
        load_catalogue(write_catalogue(tmp_path / "c.json", {**packed[1], key: value}))


def test_an_unreachable_catalogue_is_a_note_in_the_list(packed, tmp_path, monkeypatch):
    install(packed[0])
    monkeypatch.setenv("TUMORSYNTH_CATALOGUE", str(tmp_path / "absent.json"))
    listing = list_models()
    assert [row["id"] for row in listing.models] == ["tiny"]
    assert "there is no file" in listing.notes[0]


def test_no_catalogue_means_nothing_to_install():
    assert load_catalogue().entries == ()


# several processes


def test_installations_wait_for_each_other(packed, models):
    path, entry = packed
    nasty = Behaviour(path.read_bytes())
    with serve(nasty) as base:
        plan = plan_install(f"{base}/tiny.tsm.zip#sha256={entry['sha256']}", rules=RULES)
        threads = [threading.Thread(target=install, args=(plan,), kwargs={"rules": RULES}) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(nasty.gets()) == 1
    assert left_in(models) == ["tiny"]
    find("tiny").verify()


def test_a_lock_that_stays_is_explained(models):
    code = (
        "import sys, time; from pathlib import Path; from TumorSynthLib.models.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(models)], cwd=root, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout.readline().strip() == b"held"
            with pytest.raises(ModelError, match="another process"), locked(models, wait_s=0.2):
                pass
        finally:
            other.kill()
    with locked(models, wait_s=120):  # a killed process frees it
        pass


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_cannot_be_written_is_explained(packed, models):
    models.mkdir()
    models.chmod(0o500)
    with pytest.raises(ModelError, match="set TUMORSYNTH_MODELS"):
        install(packed[0])


def test_a_full_disk_is_noticed_before(packed, models, monkeypatch):
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000)
    )
    with pytest.raises(ModelError, match="1.0 kB free"):
        install(packed[0])
    assert left_in(models) == []


def test_packing_is_reproducible(packed, tmp_path):
    path, entry = packed
    again = pack(tmp_path / "made" / "tiny", tmp_path / "again.tsm.zip")
    assert again["sha256"] == entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    load_bundle(tmp_path / "made" / "tiny").verify()
