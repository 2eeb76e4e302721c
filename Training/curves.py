"""What single drivers do, and how many evaluations of the network are needed.

A sweep asks for one driver at five values while all other features are free: the population's percentiles at which a
normal distribution has -2, -1, 0, 1 and 2 standard deviations, because mean +- 2 sigma of a skewed feature is often
impossible. Slope and monotonicity are judged on the driver itself; the cross-talk matrix says by how many (robust)
standard deviations every driver moves per step of one asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from arms import Bench, judged, request_of
from distances import arrangement
from prepare import CLASSES
from scipy.stats import norm
from scoring import columnwise, interval, klass, middle, table

from TumorSynthLib.radiomics.table import DRIVERS

STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)
NFE = (1, 2, 4, 8, 16, 50, 200)
PLATEAU = 0.99  # share of the curve's best that counts as having arrived
LIGHT = ("firstorder", "glcm")  # the classes that drivers belong to
VARIANCE = "original_firstorder_Variance"

#: Drivers of texture, by the name of their slider: (feature that is asked for, its value from that, and back).
Pair = tuple[str, Callable[[float], float]]
SLIDERS: dict[str, Pair] = {
    alias: (VARIANCE, np.sqrt) if alias == "intensity_sd" else (name, float)
    for alias, (name, _) in DRIVERS.items()
    if name.split("_")[1] in LIGHT
}


def ladder(population, name: str, steps=STEPS) -> np.ndarray:
    """Values of a feature at the percentiles of a normal distribution's `steps` standard deviations."""
    return np.array(population.quantiles(name, 100 * norm.cdf(np.asarray(steps))))


def spread(population, alias: str) -> float:
    """Half the central 68 % of a driver, in its own unit."""
    name, seen = SLIDERS[alias]
    low, high = ladder(population, name, (-1.0, 1.0))
    return max(float(seen(high) - seen(low)) / 2, 1e-9)


def known(bench: Bench) -> list[str]:
    """Sliders whose feature every modality's population has."""
    names = [set(bench.bundle.population(m).names) for m in bench.bundle.modalities]
    return [alias for alias, (name, _) in SLIDERS.items() if all(name in n for n in names)]


def sweep(bench: Bench, i: int, alias: str, arm: str, steps, seed: int) -> dict | None:
    """One driver asked at every step in one case: asked and reached values, and all drivers' (steps, drivers)."""
    tumour = bench.tumours[i]
    population, (name, seen) = bench.bundle.population(tumour.case.modality), SLIDERS[alias]
    asked, found = ladder(population, name, steps), []
    for value in asked:
        drawn = bench.draw(tumour, arm, {name: float(value)}, seed, classes=LIGHT)
        if drawn is None:
            return None
        found.append([float(SLIDERS[k][1](drawn.features[SLIDERS[k][0]])) for k in known(bench)])
    everything = np.array(found)
    own = everything[:, known(bench).index(alias)]
    return {"patient": tumour.case.patient, "modality": tumour.case.modality, "asked": [float(seen(v)) for v in asked],
            "reached": own.tolist(), "drivers": everything.tolist()}  # fmt: skip


def sweeps(bench: Bench, chosen: list[int], arms, steps=STEPS, seed: int = 0) -> dict:
    """Per arm: slope and monotonicity of every driver, and the cross-talk matrix."""
    out = {"steps_sigma": list(map(float, steps)), "drivers": known(bench)}
    for arm in arms:
        rows = {alias: [] for alias in out["drivers"]}
        for i in chosen:
            for alias in rows:
                row = sweep(bench, i, alias, arm, steps, seed)
                if row:
                    rows[alias].append(row)
            print(f"sweeps {arm}: {bench.tumours[i].key}", flush=True)
        out[arm] = judge_sweeps(rows, bench, steps)
    return out


def slope(row: dict) -> float:
    """Least-squares slope of reached over asked; 1 is faithful, 0 is deaf."""
    return float(np.polyfit(row["asked"], row["reached"], 1)[0])


def monotone(row: dict) -> bool:
    return bool((np.diff(row["reached"]) > 0).all())


def judge_sweeps(rows: dict[str, list[dict]], bench: Bench, steps) -> dict:
    """Summary of one arm's sweeps; `rows` by driver."""
    drivers, talk = {}, []
    for alias, mine in rows.items():
        if not mine:
            continue
        slopes = [slope(r) for r in mine]
        drivers[alias] = {
            "slope": middle(slopes),
            "slope_range": [float(v) for v in np.percentile(slopes, [10, 90])],
            "monotone": float(np.mean([monotone(r) for r in mine])),
            "cases": len(mine),
            "asked": [r["asked"] for r in mine],
            "reached": [r["reached"] for r in mine],
        }
        each = []
        for r in mine:
            population = bench.bundle.population(r["modality"])
            unit = np.array([spread(population, other) for other in rows])  # rows: every known driver
            each.append(np.polyfit(steps, np.array(r["drivers"]) / unit, 1)[0])
        talk.append(np.median(each, 0).tolist())
    every = [r for mine in rows.values() for r in mine]
    if not every:
        return {"drivers": {}}
    within = [0.9 <= slope(r) <= 1.1 for r in every]
    return {
        "drivers": drivers,
        "cross_talk": talk,
        "monotone": float(np.mean([monotone(r) for r in every])),
        "monotone_interval": interval(every, lambda some: float(np.mean([monotone(r) for r in some]))),
        "slope_median": middle([slope(r) for r in every]),
        "slope_within_0.9_1.1": float(np.mean(within)),
    }


def evaluations(bench: Bench, pairs: list[tuple[int, int]], counts=NFE, arm="network", seed: int = 0) -> dict:
    """Feature-wise median Pearson of the network alone against the number of evaluations, and how tumours then look.

    :param pairs: (case, donor) indices; nothing is said where there are none, or all are refused.
    """
    curve = {}
    for count in counts:
        rows, made = [], []
        for i, donor in pairs:
            tumour, asked = bench.tumours[i], bench.wish(i, donor)
            drawn = bench.draw(tumour, arm, request_of(asked), seed, steps=count, classes=CLASSES)
            if drawn:
                made.append((i, drawn))
                row = {"patient": tumour.case.patient, "modality": tumour.case.modality}
                rows.append(row | {"asked": asked, "reached": drawn.features, "seconds": drawn.seconds})
        if not rows:
            continue
        curve[str(count)] = _point(rows) | {"arrangement": arrangement(bench, made)}
        print(f"evaluations {count}: {curve[str(count)]}", flush=True)
    return {"curve": curve, "cases": len(pairs)} | arrival(curve) if curve else {}


def _point(rows: list[dict]) -> dict:
    names = [n for n in judged(rows[0]["asked"]) if n in rows[0]["reached"]]

    def median(some, part=names):
        modalities = sorted({r["modality"] for r in some})
        groups = [[r for r in some if r["modality"] == m] for m in modalities]
        found = [columnwise(table(g, part, "asked"), table(g, part, "reached")) for g in groups if len(g) > 2]
        return float(np.mean([middle(f) for f in found])) if found else float("nan")

    classes = {c: median(rows, [n for n in names if klass(n) == c]) for c in CLASSES}
    seconds = float(np.median([r["seconds"] for r in rows]))
    return {
        "median": median(rows),
        "interval": interval(rows, median),
        "classes": classes,
        "seconds": seconds,
    }


def arrival(curve: dict[str, dict]) -> dict:
    """Fewest evaluations with 99 % of the curve's best."""
    best = max((p["median"] for p in curve.values() if np.isfinite(p["median"])), default=float("nan"))
    enough = [int(n) for n, p in curve.items() if p["median"] >= PLATEAU * best]
    return {"plateau": best, "evaluations_for_99_percent": min(enough) if enough and best > 0 else None}
