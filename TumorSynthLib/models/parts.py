"""The optional parts of a `bundle.json`: what each engine needs, and numbers that no model has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..engines import ENGINES
from ..errors import ModelError
from ..numeric import is_finite

INTENSITY_KINDS = ("asinh",)  # maps from intensities to the range of a bridge's network
FORMS = "forms.safetensors"  # forms of real tumours, from which shapes are grown
MAX_DEPTH = 32  # containers within each other; a manifest has 6
MAX_WIDTH = 4096  # channels, tokens, features; the paper's network has 512
MAX_BLOCKS = 64
MAX_NODES = 1000  # evaluations of a network
MAX_LEVELS = 8  # channels of the codec's latent
FLOAT_MAX = 1.7976931348623157e308


def engine_of(manifest: dict[str, Any]) -> str | None:
    """The engine that a model is made for; None for one that only makes shapes, or lends tissue."""
    return manifest.get("engine") or ("bridge" if manifest.get("network") is not None else None)


def draws(bundle: Any) -> bool:
    """Whether there is a model with a network that draws textures."""
    return bundle is not None and engine_of(bundle.json) == "bridge"


def draws_shapes(bundle: Any) -> bool:
    """Whether there is a model with a network that draws shapes, and without forms from which they would be grown."""
    part = {} if bundle is None else bundle.json.get("shape") or {}
    return bool(part.get("network")) and FORMS not in bundle.json["files"]


def check_contents(manifest: Any, where: str) -> None:
    """Refuse what no manifest holds: halves of characters and control characters, numbers beyond a float, deep nesting.

    :raises ModelError: naming `where` and what was found.
    """
    for values, depth in _containers(manifest):
        if depth > MAX_DEPTH:
            raise ModelError(f"{where} is nested more than {MAX_DEPTH} levels deep; get the model again")
        for value in values:
            if isinstance(value, str):
                if not value.isprintable() and not _is_clean(value):
                    raise ModelError(
                        f"{where} holds a text with control characters or half a character ({value[:40]!r}); get the model again"
                    )
            elif isinstance(value, (int, float)) and not -FLOAT_MAX <= value <= FLOAT_MAX:  # nor is NaN
                raise ModelError(f"{where} holds a number that is too large; get the model again")


def _containers(value: Any) -> Iterator[tuple[list[Any], int]]:
    """What each list holds, and each object with its keys, and how deep that lies; without recursion."""
    waiting: list[tuple[list[Any], int]] = [([value], 0)]
    while waiting:
        values, depth = waiting.pop()
        yield values, depth
        for item in values:
            if isinstance(item, dict):
                waiting.append(([*item, *item.values()], depth + 1))
            elif isinstance(item, (list, tuple)):
                waiting.append((list(item), depth + 1))


def _is_clean(text: str) -> bool:
    return not any(
        (ord(c) < 32 and c not in "\n\r\t") or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000
        for c in text
    )


def check_parts(manifest: dict[str, Any], where: str) -> None:
    """Check the parts that the model's engine draws with, and those that it may have besides.

    :raises ModelError: naming `where` and the key.
    """

    def need(good: bool, key: str, value: Any, expected: str) -> None:
        if not good:
            shown = repr(value)
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            raise ModelError(f"{where}: the key {key!r} is {shown}, expected {expected}; get the model again")

    engine = engine_of(manifest)
    if engine not in (*ENGINES, None):
        raise ModelError(
            f"{where} is made for the engine {str(engine)[:40]!r}, this version has {', '.join(ENGINES)}; update it"
        )
    if engine == "bridge":
        _check_bridge(manifest, need)
    _check_shape(manifest.get("shape"), need)
    bank = manifest.get("bank")
    if bank is not None:
        tumours = bank.get("tumours") if isinstance(bank, dict) else None
        good = isinstance(tumours, list) and all(isinstance(t, dict) for t in tumours)
        need(good, "bank", bank, "an object with a list of 'tumours'")


Need = Callable[[bool, str, Any, str], None]


def _check_bridge(manifest: dict[str, Any], need: Need) -> None:
    for key in ("codec", "network", "sampler"):
        need(
            isinstance(manifest.get(key), dict),
            key,
            manifest.get(key),
            "an object, which the model's network needs",
        )
    for modality in manifest["modalities"]:
        mapping, key = manifest["intensity"][modality], f"intensity.{modality}"
        need(
            mapping["kind"] in INTENSITY_KINDS,
            f"{key}.kind",
            mapping["kind"],
            f"one of {', '.join(INTENSITY_KINDS)}",
        )
        need(is_finite(mapping.get("center")), f"{key}.center", mapping.get("center"), "a number")
        scale = mapping.get("scale")
        need(is_finite(scale) and 1e-6 <= scale <= 1e6, f"{key}.scale", scale, "a number above 0")
    _check_codec(manifest["codec"], need)
    network = manifest["network"]
    features = network.get("features")
    need(_are_names(features), "network.features", features, "a list of distinct texts")
    config = network.get("config")
    need(isinstance(config, dict), "network.config", config, "an object")
    _check_config(config, "network.config", need)
    counts = {
        "features": features,
        "modalities": manifest["modalities"],
        "regions": manifest.get("regions") or ["tumour"],
    }
    for name, listed in counts.items():
        if name in config:
            need(
                config[name] == len(listed),
                f"network.config.{name}",
                config[name],
                f"{len(listed)}, as are listed",
            )
    nodes = manifest["sampler"].get("nodes")
    good = (
        isinstance(nodes, list)
        and 0 < len(nodes) <= MAX_NODES
        and all(is_finite(n) and 0 < n <= 1 for n in nodes)
    )
    need(
        good and list(nodes) == sorted(nodes, reverse=True), "sampler.nodes", nodes, "times from 1 down to 0"
    )
    eta = manifest["sampler"].get("eta")
    need(is_finite(eta) and 0 <= eta <= 1, "sampler.eta", eta, "a number from 0 to 1")


def _check_codec(codec: dict[str, Any], need: Need) -> None:
    need(isinstance(codec.get("kind"), str), "codec.kind", codec.get("kind"), "a name")
    for name in ("width", "factor"):
        if name in codec:
            need(
                _is_count(codec[name], MAX_WIDTH),
                f"codec.{name}",
                codec[name],
                f"a whole number up to {MAX_WIDTH}",
            )
    levels = codec.get("levels", [33])
    good = (
        isinstance(levels, (list, tuple))
        and 0 < len(levels) <= MAX_LEVELS
        and all(_is_count(n, 65535) for n in levels)
    )
    need(good, "codec.levels", levels, f"a list of up to {MAX_LEVELS} whole numbers")


def _check_config(config: dict[str, Any], key: str, need: Need) -> None:
    """The numbers that a network's size follows from."""
    for name, value in config.items():
        if name in ("widths", "groups"):
            good = isinstance(value, (list, tuple)) and 0 < len(value) <= 64
            good = good and (
                _are_names(value) if name == "groups" else all(_is_count(n, MAX_WIDTH) for n in value)
            )
            need(
                good,
                f"{key}.{name}",
                value,
                "a short list of " + ("names" if name == "groups" else "whole numbers"),
            )
        elif name == "clip":
            need(is_finite(value), f"{key}.{name}", value, "a number")
        else:
            most = MAX_BLOCKS if name in ("blocks", "heads", "kernels") else MAX_WIDTH
            need(_is_count(value, most), f"{key}.{name}", value, f"a whole number up to {most}")


def _check_shape(part: Any, need: Need) -> None:
    if part is None:
        return
    need(isinstance(part, dict), "shape", part, "an object")
    population = part.get("population")
    good = isinstance(population, dict) and all(_are_names(population.get(n)) for n in ("names", "cases"))
    need(good, "shape.population", population, "an object with 'names' and 'cases'")
    network = part.get("network")
    if network is not None:
        good = isinstance(network, dict) and isinstance(network.get("config"), dict)
        need(good, "shape.network", network, "an object with 'config'")
        _check_config(network["config"], "shape.network.config", need)


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(n, str) and n for n in value)
        and len(set(value)) == len(value)
    )  # fmt: skip


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
