"""The goals of texture, and what was reached: one table over all models, written by write_results.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

AUDIT = ("gldm", "ngtdm", "glcm_other")
RIVALS = ("gan", "ldm", "field")  # what has to be far less believable
PAINTED = ("gan", "ldm")  # what a tumour's or a removal's PSNR is compared with

Found = tuple[str, bool] | None  # what was reached, and whether that meets the goal; None: not measured


@dataclass(frozen=True)
class Column:
    """All results of one model and modality, those of most cases first."""

    model: str
    modality: str
    textures: tuple[dict, ...]
    removals: tuple[dict, ...]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.modality}"

    def row(self, request: str, arm: str, beside: tuple[str, ...] = ()) -> dict | None:
        """Fidelity of an arm, from the most cases; with `beside`, from results that have those arms too."""
        return self._entry("results", request, arm, beside)

    def seen(self, request: str, arm: str, beside: tuple[str, ...] = ()) -> dict | None:
        """Believability of an arm."""
        return self._entry("believable", request, arm, beside)

    def _entry(self, part: str, request: str, arm: str, beside: tuple[str, ...]) -> dict | None:
        for out in self.textures:
            entries = out.get(part, {})
            if all(f"{self.modality} {request} {a}" in entries for a in (arm, *beside)):
                return entries[f"{self.modality} {request} {arm}"]
        return None

    def part(self, name: str) -> dict | None:
        """Sweeps or evaluations, which are of all modalities together."""
        return next((out[name] for out in self.textures if out.get(name)), None)


def columns(outs: list[dict]) -> Iterator[Column]:
    """One column per model and modality that has texture results."""
    texture = sorted((o for o in outs if o["task"] == "texture"), key=lambda o: -len(o.get("cases", ())))
    holes = sorted(
        (o for o in outs if o["task"] == "removal" and " --data " in o["command"]), key=_holes, reverse=True
    )
    for model in sorted({o["model"] for o in texture}):
        of = tuple(o for o in texture if o["model"] == model)
        for modality in sorted({key.split(" ")[0] for o in of for key in o.get("results", {})}):
            yield Column(model, modality, of, tuple(o for o in holes if o["model"] == model))


def _holes(out: dict) -> int:
    return max((r["holes"] for r in out["results"].values() if isinstance(r, dict)), default=0)


def span(interval, digits: int = 2) -> str:
    """An interval in brackets; nothing where there is none."""
    return (
        f" ({interval[0]:.{digits}f}-{interval[1]:.{digits}f})" if interval and None not in interval else ""
    )


def _three(value: float, interval=None) -> str:
    """A correlation to three decimals, with its interval."""
    return f"{value:.3f}{span(interval, 3)}"


def classes(*limits: tuple[str, float]) -> Callable[[Column], Found]:
    """The solver's own features: medians over a class of features, each with its limit."""

    def found(column: Column) -> Found:
        if (row := column.row("own", "full")) is None:
            return None
        parts = [row["classes"][kind] for kind, _ in limits]
        met = all(part["median"] >= least for part, (_, least) in zip(parts, limits))
        return " / ".join(_three(part["median"], part.get("interval")) for part in parts), met

    return found


def casewise(request: str) -> Callable[[Column], Found]:
    def found(column: Column) -> Found:
        if (row := column.row(request, "full")) is None:
            return None
        values = [row["case_pearson"], row["case_spearman"]]
        spans = [row.get(f"{k}_interval") for k in ("case_pearson", "case_spearman")]
        return " / ".join(map(_three, values, spans)), values[0] >= 0.95 and values[1] >= 0.96

    return found


def alone(request: str) -> Callable[[Column], Found]:
    def found(column: Column) -> Found:
        if (row := column.row(request, "network")) is None:
            return None
        steered = row["groups"]["steered"]
        gap = steered["median"] - steered["shuffled"]
        return f"{_three(steered['median'], steered.get('interval'))}; {gap:.2f}", steered[
            "median"
        ] >= 0.85 and gap >= 0.5

    return found


def believed(request: str) -> Callable[[Column], Found]:
    """Both detectors' AUC."""

    def found(column: Column) -> Found:
        if not (seen := column.seen(request, "full")) or not seen.get("detectors"):
            return None
        found = [seen["detectors"][name] for name in ("numbers", "patches")]
        return " / ".join(f"{d['auc']:.2f}{span(d.get('interval'))}" for d in found), max(
            d["auc"] for d in found
        ) <= 0.7

    return found


def less_seen(column: Column) -> Found:
    """AUC, mean of both detectors, for either kind of request, next to that of the rivals on the same cases."""
    told, better = [], True
    for request in ("own", "donor"):
        beside = tuple(r for r in RIVALS if column.seen(request, "full", (r,)))
        for rival in beside:
            ours, theirs = (_auc(column.seen(request, arm, beside)) for arm in ("full", rival))
            told.append(f"{request} {ours:.2f}, {rival} {theirs:.2f}")
            better &= ours < theirs
    return ("; ".join(told), better) if told else None


def _auc(seen: dict) -> float:
    return sum(seen["detectors"][name]["auc"] for name in ("numbers", "patches")) / 2


def nearer(column: Column) -> Found:
    """Fréchet distances of donors' requests: our features to the population, and by `frd-score` to the same cases."""
    beside = tuple(r for r in PAINTED if column.seen("donor", "full", (r,)))
    if not beside:
        return None
    seen = {arm: column.seen("donor", arm, beside) for arm in ("full", *beside)}
    kinds = [
        k
        for k in ("frechet_population", "frechet_frd_score")
        if all(v.get(k) is not None for v in seen.values())
    ]
    texts = [f"{arm} {' / '.join(f'{v[k]:.2f}' for k in kinds)}" for arm, v in seen.items()]
    real = next(
        (o["believable"][f"{column.modality} real"] for o in column.textures if _has(o, column, beside)), None
    )
    if real:
        texts.append(f"real {real['frechet_population']:.2f}")
    return ", ".join(texts), all(seen["full"][k] < min(seen[r][k] for r in beside) for k in kinds)


def _has(out: dict, column: Column, beside: tuple[str, ...]) -> bool:
    return all(
        f"{column.modality} {key}" in out.get("believable", {})
        for key in ("real", *(f"donor {r}" for r in beside))
    )


def swept(column: Column) -> Found:
    full = (column.part("sweeps") or {}).get("full")
    if not full:
        return None
    met = full["monotone"] >= 0.95 and 0.9 <= full["slope_median"] <= 1.1
    return f"{100 * full['monotone']:.0f} %; {full['slope_median']:.2f}", met


def painted(column: Column) -> Found:
    """PSNR and SSIM of own features, next to baselines on the same cases."""
    beside = tuple(r for r in PAINTED if column.row("own", "full", (r,)))
    if not beside:
        return None
    rows = {arm: column.row("own", arm, beside) for arm in ("full", *beside)}
    met = all(rows["full"][k] > rows[r][k] for r in beside for k in ("psnr", "ssim"))
    return ", ".join(f"{arm} {r['psnr']:.1f} / {r['ssim']:.3f}" for arm, r in rows.items()), met


def removed(column: Column) -> Found:
    """PSNR and SSIM of removals, next to biharmonic inpainting and baselines."""
    for out in column.removals:
        arms = {
            arm: [out["results"][f"{column.modality} {arm} {k}"]["mean"] for k in ("psnr", "ssim")]
            for arm in ("model", "biharmonic", *PAINTED)
            if f"{column.modality} {arm} psnr" in out["results"]
        }
        if "model" in arms:
            met = all(
                ours > theirs
                for arm in arms
                for ours, theirs in zip(arms["model"], arms[arm])
                if arm != "model"
            )
            return ", ".join(f"{arm} {p:.1f} / {s:.3f}" for arm, (p, s) in arms.items()), met
    return None


def evaluated(column: Column) -> Found:
    if not (curve := column.part("evaluations")):
        return None
    count = curve["evaluations_for_99_percent"]
    if count is None:  # no number of evaluations follows the request
        return "never", False
    count = int(count)
    return str(count), count <= 8


def seconds(column: Column) -> Found:
    rows = [column.row("own", arm) for arm in ("network", "full")]
    if None in rows:
        return None
    network, full = (r["seconds_median"] for r in rows)
    return f"{network:.1f} / {full:.1f}", network <= 10 and full <= 30


GOALS: tuple[tuple[str, Callable[[Column], Found]], ...] = (
    ("first-order / GLCM, own features ≥ .99", classes(("firstorder", 0.99), ("glcm", 0.99))),
    ("GLRLM ≥ .97 / GLSZM ≥ .92", classes(("glrlm", 0.97), ("glszm", 0.92))),
    ("audit: GLDM / NGTDM / GLCM at another bin width ≥ .95", classes(*((kind, 0.95) for kind in AUDIT))),
    ("case-wise Pearson ≥ .95 / Spearman ≥ .96, own features", casewise("own")),
    ("the same, donors' features", casewise("donor")),
    ("AUC of detectors by numbers / patches ≤ .70, own features", believed("own")),
    ("the same, donors' features", believed("donor")),
    ("mean AUC below GAN's, LDM's and field's, same cases", less_seen),
    ("Fréchet distances (population / frd-score) below GAN's and LDM's, donors, same cases", nearer),
    ("network alone: median Pearson ≥ .85; gap to shuffled ≥ .5, own features", alone("own")),
    ("the same, donors' features", alone("donor")),
    ("sweeps of one driver: monotone ≥ 95 %; slope .9 to 1.1", swept),
    ("PSNR / SSIM of own features above GAN's and LDM's", painted),
    ("PSNR / SSIM of removals above biharmonic's, GAN's and LDM's", removed),
    ("evaluations for 99 % of the best ≤ 8", evaluated),
    ("seconds, 2 cores: network ≤ 10 / with solver ≤ 30", seconds),
)


def table(outs: list[dict]) -> list[str]:
    """Lines of Markdown: a row per goal, a column per model and modality; what misses its goal is bold."""
    heads = list(columns(outs))
    if not heads:
        return []
    lines = [
        "## Goals",
        "",
        "Default settings (network and solver) unless a row says otherwise; **bold** misses its goal, by its value, whatever its",
        "95 % interval (in brackets). Rows that compare take the cases that all their arms were drawn for, the others all cases.",
        "Sweeps and evaluations are of a model's modalities together.",
        "",
        f"| goal | {' | '.join(c.title for c in heads)} |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for text, measure in GOALS:
        cells = [measure(column) for column in heads]
        shown = [("not measured" if c is None else c[0] if c[1] else f"**{c[0]}**") for c in cells]
        lines.append(f"| {text} | {' | '.join(shown)} |")
    return [*lines, ""]
