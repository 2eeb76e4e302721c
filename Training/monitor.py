"""What a training run shows of itself: log, progress bar, TensorBoard, sample pictures, and the loss on validation patients."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import torch

EVERY = 20  # steps between two lines of losses
KEPT = 0.98  # share of the losses' running averages that a step keeps
SHOWN = 3  # tumours in a picture
VALIDATION_SEED = 20_000_003  # no step of training draws from it


class ProgressBar:
    """One line on a terminal: share done, the latest values, and the time that is left; nothing where there is none."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self.shown = self.stream.isatty()
        self.width = 0

    def show(self, done: float, left: float, **values):
        """:param done: share of the run, 0 to 1; :param left: seconds."""
        if not self.shown:
            return
        filled = round(24 * min(max(done, 0.0), 1.0))
        parts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]
        line = f"[{'=' * filled}{' ' * (24 - filled)}] {100 * done:3.0f} %  {'  '.join(parts)}  {duration(left)} left"
        self.stream.write("\r" + line.ljust(self.width))
        self.stream.flush()
        self.width = len(line)

    def close(self):
        if self.shown and self.width:
            self.stream.write("\n")
            self.stream.flush()


def duration(seconds: float) -> str:
    """1 d 02:03:04"""
    whole = int(max(seconds, 0))
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def tensorboard(folder: Path):
    """A TensorBoard writer.

    :raises SystemExit: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SystemExit('--tensorboard needs TensorBoard: pip install -e ".[training]"') from None
    return SummaryWriter(str(folder / "tensorboard"))


class Watch:
    """Running averages of a run's losses, and where they go: log.jsonl, the screen, with `board` TensorBoard.

    :param average: what a resumed run had so far.
    """

    def __init__(self, run: common.Run, board: bool, average: dict[str, float] | None = None):
        self.run, self.average, self.bar = run, dict(average or {}), ProgressBar()
        self.board = tensorboard(run.folder) if board and run.first else None

    def note(self, found: dict[str, float]):
        """Losses of a step of this process."""
        self.average |= {k: KEPT * self.average.get(k, v) + (1 - KEPT) * v for k, v in found.items()}

    def means(self) -> dict[str, float]:
        """The averages' means over the processes, all of which must call this."""
        return {k: self.run.mean(v) for k, v in self.average.items()}

    def report(self, step: int, done: float, used: float, **more: float):
        """Show the losses' means and `more`; `done` is the share of the run, `used` its seconds so far."""
        values, left = self.means() | more, used / max(done, 1e-6) - used
        self.write(step, values, seconds=used, left=left)
        self.bar.show(done, left, step=step, **values)

    def write(self, step: int, values: dict[str, float], **logged: float):
        """A line of values; `logged` are not for TensorBoard."""
        self.run.log(step=step, **values, **logged, quiet=self.bar.shown)
        for name, value in values.items() if self.board else ():
            self.board.add_scalar(name, value, step)

    def image(self, step: int, image: np.ndarray | None):
        """A picture (H, W, 3) for TensorBoard."""
        if image is not None and self.board:
            self.board.add_image("samples", image, step, dataformats="HWC")

    def close(self):
        self.bar.close()
        if self.board:
            self.board.close()


def check_validation(data: common.Prepared, val: common.Prepared):
    """Raise SystemExit unless validation crops were prepared like the training crops, of other patients."""
    for key in ("spacing", "names", "modalities", "extraction"):
        if data.meta[key] != val.meta[key]:
            raise SystemExit(
                f"--val: its {key} is {val.meta[key]}, that of --data {data.meta[key]}: prepare it alike"
            )
    if data.regions != val.regions or data.images.shape[1:] != val.images.shape[1:]:
        raise SystemExit("--val: it has other regions or crops than --data: prepare it alike")
    shared = {r["patient"] for r in data.rows} & {r["patient"] for r in val.rows}
    if shared:
        raise SystemExit(
            f"--val: {len(shared)} of its patients are in --data too, e.g. {min(shared)}: hold them out"
        )


@dataclass
class Patience:
    """When to stop: the best validation loss so far, and how many validations ago it was."""

    allowed: int
    best: float | None = None
    since: int = 0

    def better(self, loss: float) -> bool:
        """Note a validation loss; whether it is the best."""
        better = self.best is None or loss < self.best
        self.best, self.since = (loss, 0) if better else (self.best, self.since + 1)
        return better

    @property
    def spent(self) -> bool:
        return 0 < self.allowed <= self.since


@torch.no_grad()
def validation_loss(loss_of, sampler, run: common.Run, items: int, batch: int = 4) -> float:
    """Mean of `loss_of(batch)` over fixed items, the same at each call; the processes share them."""
    total, count = 0.0, -(-items // run.world)
    for first in range(run.rank * count, (run.rank + 1) * count, batch):
        size = min(batch, (run.rank + 1) * count - first)
        drawn = sampler.batch(size, 0, first, VALIDATION_SEED)
        total += float(loss_of({k: v.to(run.device) for k, v in drawn.items()}).sum())
    return run.mean(total / count)


def picture(path: Path, model, sampler, names: list[str], bits: tuple[int, int]) -> np.ndarray | None:
    """Write a picture of fixed tumours: real, with its own features, with another's, and removed; returns it as (H, W, 3).

    :param model: the `TextureModel` to draw with.
    :param bits: label bits of the region and of the image's extent.
    """
    data = sampler.data
    rows = shown(np.flatnonzero([r["kind"] == "real" for r in data.rows]))

    def images(i: int) -> tuple[list[np.ndarray], np.ndarray]:
        other = next((j for j in rows if j != i and data.modality[j] == data.modality[i]), i)
        label = np.asarray(data.labels[i])
        mask, valid = (label & bits[0]) > 0, (label & bits[1]) > 0
        array, modality = np.asarray(data.images[i], np.float32), data.meta["modalities"][data.modality[i]]
        others = {}
        if len(data.regions) > 1:
            others = {r: (label & (1 << (common.REGION_BIT + k))) > 0 for k, r in enumerate(data.regions)}
        options = {"valid": valid, "seed": 0, "region": data.regions[data.region[i]], "others": others}
        wanted = (dict(zip(names, data.features[j, sampler.columns])) for j in (i, other))
        drawn = [model.sample(array, mask, modality, features, **options) for features in (*wanted, None)]
        return [array, *drawn], mask

    return sheet(path, data, rows, images, ("own features", "another's features", "removed"))


def shown(rows: np.ndarray) -> np.ndarray:
    """`SHOWN` of some crops, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)]


def sheet(
    path: Path, data: common.Prepared, rows: np.ndarray, images, titles: tuple[str, ...]
) -> np.ndarray | None:
    """Write a picture of some crops, a line each, and return it as (H, W, 3); None where matplotlib is not installed.

    :param images: of a crop's number: the images (D, H, W) of its line, the crop first, and the tumour's mask.
    :param titles: of the images after the first.
    """
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 1 + len(titles)
    figure, axes = pyplot.subplots(
        len(rows), columns, figsize=(2.5 * columns, 2.6 * len(rows)), squeeze=False
    )
    for line, i in zip(axes, rows):
        name = f"{data.rows[i]['id']} {data.meta['modalities'][data.modality[i]]}"
        _draw_line(line, *images(i), (name, *titles))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    pyplot.close(figure)
    return image


def _draw_line(axes, images, mask, titles: tuple[str, ...]):
    """The mask's largest slice of several (D, H, W) images, at the window of the first."""
    z = int(mask.sum((1, 2)).argmax())
    low, high = np.percentile(images[0], [1, 99])
    for axis, image, title in zip(axes, images, titles):
        axis.imshow(image[z], cmap="gray", vmin=low, vmax=high)
        axis.contour(mask[z], [0.5], colors="r", linewidths=0.4)
        axis.set_title(title, fontsize=8)
        axis.axis("off")
