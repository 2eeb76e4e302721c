"""What the training scripts share: processes, seeds, checkpoints, log, prepared data."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout works without installation

from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.precision import autocast

LIBRARY = Path(__file__).resolve().parents[1] / "TumorSynthLib"


def library_hash(*more: Path, library: Path = LIBRARY) -> str:
    """Of all of the library's code, and of further files: what other code made is made anew."""
    digest = hashlib.sha256()
    for path in [*sorted(library.rglob("*.py")), *more]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def image_hash(volume, mask: np.ndarray) -> str:
    """Of an image's voxels and geometry, and of a mask (K, J, I) on it."""
    digest = hashlib.sha256(repr((volume.spacing, volume.origin, volume.direction)).encode())
    for array in (volume.array, mask):
        digest.update(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def parse(
    parser: argparse.ArgumentParser, section: str, arguments: list[str] | None = None
) -> argparse.Namespace:
    """Options of a script: those of `--recipe FILE` under the script's name, overridden by those of the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", type=Path)
    recipe = first.parse_known_args(arguments)[0].recipe
    if recipe is None:
        return parser.parse_args(arguments)
    words = recipe_arguments(parser, read_recipe(recipe).get(section) or {}, f"{recipe}, {section}")
    # The name comes last, because an option with any number of values would swallow a positional argument after it.
    return parser.parse_args([*words, "--recipe", str(recipe), *arguments])


def read_recipe(path: Path) -> dict[str, dict]:
    """Options by script (`prepare`, `train_texture` ...) of a YAML file."""
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"can't read the recipe {path}: {error}") from None
    if not isinstance(recipe, dict) or not all(isinstance(part, dict) for part in recipe.values()):
        raise SystemExit(f"{path} is not a recipe: expected script names with options under them")
    return recipe


def recipe_arguments(parser: argparse.ArgumentParser, options: dict, where: str) -> list[str]:
    """A recipe's options as words of a command line, so that they are checked like those; positional ones become defaults."""
    known = {action.dest: action for action in parser._actions}
    words: list = []
    for key, value in options.items():
        action = known.get(str(key).replace("-", "_"))
        if action is None or action.dest in ("help", "recipe"):
            parser.error(f"{where}: unknown option {key!r}; known are {', '.join(sorted(known))}")
        if not action.option_strings:
            if action.choices and value not in action.choices:
                parser.error(f"{where}: {key} is {value!r}; choose from {', '.join(action.choices)}")
            parser.set_defaults(**{action.dest: value})
        elif isinstance(value, bool):
            if action.nargs != 0:
                parser.error(f"{where}: {key} needs a value, not {value}")
            words += action.option_strings[-1:] if value else []
        else:
            words += [action.option_strings[-1], *map(str, value if isinstance(value, list) else [value])]
    return words


class Run:
    """One process of a run: rank, device, folder, log; started alone or by torchrun."""

    def __init__(self, folder: str, threads: int | None = None):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if threads:
            torch.set_num_threads(threads)
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
            torch.backends.cudnn.deterministic = (
                True  # so that a resumed run goes the same way, but for rounding
            )
        if self.world > 1:  # NCCL wants a GPU for each process
            own = cuda and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
            dist.init_process_group("nccl" if own else "gloo")
        self.device = torch.device("cuda" if cuda else "cpu")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.time()

    @property
    def hardware(self) -> str:
        """What the run is on, in words: a checkpoint's minutes mean little without."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        return f"{self.world} processes on {name}" if self.world > 1 else name

    def elapsed(self) -> float:
        """Seconds since the start by the first process's clock, so that all processes stop at the same step."""
        seconds = torch.tensor(time.time() - self.started, dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.broadcast(seconds, 0)
        return float(seconds)

    def mean(self, value: float) -> float:
        """Mean over the processes, all of which must call this."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(total)
        return float(total) / self.world

    @property
    def first(self) -> bool:
        return self.rank == 0

    def log(self, quiet: bool = False, **values):
        """One JSON line, in log.jsonl and, unless `quiet`, on the screen."""
        if self.first:
            line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()})
            if not quiet:
                print(line, flush=True)
            with open(self.folder / "log.jsonl", "a") as f:
                f.write(line + "\n")

    def autocast(self):
        """bfloat16 where the device is faster with it."""
        return autocast(self.device)

    def save(self, state: dict, name: str = "last.pt"):
        """Checkpoint, whole or not at all."""
        if self.first:
            temporary = self.folder / (name + ".part")
            torch.save(state, temporary)
            os.replace(temporary, self.folder / name)

    def load(self, name: str = "last.pt") -> dict | None:
        path = self.folder / name
        if not path.exists():
            return None
        return torch.load(path, map_location="cpu", weights_only=True)

    def close(self):
        if self.world > 1:
            dist.barrier()  # a process that leaves early aborts those still talking to it
            dist.destroy_process_group()


class Ema:
    """Exponential moving average of a module's state; short memory at first."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.998):
        self.decay, self.count = decay, 0
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module):
        self.count += 1
        d = min(self.decay, (1 + self.count) / (10 + self.count))
        for k, v in module.state_dict().items():
            if v.dtype.is_floating_point:
                self.shadow[k].lerp_(v.detach(), 1 - d)


def patient_of(id: str) -> str:
    """Patient of a case: several nodules of one LIDC patient, LIDC-IDRI-0001_R_1 and _R_2, are one."""
    return re.sub(r"_[RN]_\d+$", "", id)


def open_codec(path: str | None):
    """The codec of a checkpoint of train_codec.py, or Haar; and its configuration."""
    if not path:
        return make_codec({"kind": "haar"}), {"kind": "haar"}
    saved = torch.load(path, map_location="cpu", weights_only=True)
    codec = make_codec(saved["config"])
    codec.load_state_dict(saved["codec"])
    return codec, saved["config"]


def rate(a, done: float) -> float:
    """Cosine from lr to lr / 50 over the share of the budget that is done, after a short warm-up."""
    return float(a.lr * min(1.0, done / 0.02 + 0.02) * (0.51 + 0.49 * np.cos(np.pi * min(done, 1.0))))


REGION_BIT = 3  # of a label crop: the first region's, where there are several


class Prepared:
    """Prepared crops of one or more folders made by prepare.py with the same settings.

    :raises SystemExit: the folder holds none.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "meta.json").is_file():
            raise SystemExit(f"{folder} has no meta.json: give a folder that prepare.py made")
        self.meta = json.loads((folder / "meta.json").read_text())
        self.images = np.load(folder / "images.npy", mmap_mode="r")  # (N, D, H, W) int16 intensities
        self.labels = np.load(
            folder / "labels.npy", mmap_mode="r"
        )  # bit 0 region, bit 1 inside image, bit 2 any tumour
        self.features = np.load(folder / "features.npy")  # (N, F) float64, nan where there is none
        self.rows = json.loads((folder / "rows.json").read_text())
        self.modality = np.array([self.meta["modalities"].index(r["modality"]) for r in self.rows])
        self.regions = [r["name"] for r in self.meta.get("regions", [{"name": "tumour"}])]
        self.region = np.array([self.regions.index(r.get("region", self.regions[0])) for r in self.rows])

    def __len__(self):
        return len(self.rows)
