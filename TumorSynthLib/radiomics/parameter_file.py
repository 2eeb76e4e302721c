"""Reader of pyradiomics' parameter files: JSON, or the part of YAML that they use.

That part: one `name: value` per line, sections by indentation, lists in brackets or as lines with a dash,
comments. Anything else is refused with its line number rather than guessed, so that no YAML library is
needed.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import InputError

CONSTANTS = {
    "": None,
    "~": None,
    "null": None,
    "none": None,
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


def parse(text: str, source: str) -> dict[str, Any]:
    """Content of a parameter file; `source` names it in errors.

    :raises InputError: the text is neither JSON nor such YAML.
    """
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{source} is not valid JSON: {error}.") from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        line = _without_comment(line).rstrip()
        if line.strip() and line.strip() != "---":
            if "\t" in line[: len(line) - len(line.lstrip())]:
                raise InputError(f"{source}, line {number}: indent with spaces, not tabs.")
            lines.append((number, len(line) - len(line.lstrip()), line.strip()))
    content, rest = _block(lines, source)
    if rest:
        raise InputError(f"{source}, line {rest[0][0]}: the indentation fits no section.")
    if not isinstance(content, dict):
        raise InputError(
            f"{source} holds no settings. Expected lines such as 'binWidth: 25' below 'setting:'."
        )
    return content


def _without_comment(line: str) -> str:
    quote = ""
    for k, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (k == 0 or line[k - 1].isspace()):
            return line[:k]
    return line


def _block(lines: list[tuple[int, int, str]], source: str) -> tuple[Any, list[tuple[int, int, str]]]:
    """Value of the lines at the first line's indentation, and the lines after it."""
    if not lines:
        return {}, []
    indent = lines[0][1]
    if lines[0][2].startswith("-"):
        items = []
        while lines and lines[0][1] == indent and lines[0][2].startswith("-"):
            items.append(_scalar(lines[0][2][1:].strip(), lines[0][0], source))
            lines = lines[1:]
        return items, lines
    mapping: dict[str, Any] = {}
    while lines and lines[0][1] == indent:
        number, _, line = lines[0]
        match = re.fullmatch(r"(['\"]?)([^'\":]+)\1\s*:(?:\s+(.*))?", line)
        if not match:
            raise InputError(f"{source}, line {number}: expected 'name: value', found '{line}'.")
        name, value = match[2].strip(), match[3]
        lines = lines[1:]
        nested = lines and (lines[0][1] > indent or (lines[0][1] == indent and lines[0][2].startswith("-")))
        if value is None and nested:
            mapping[name], lines = _block(lines, source)
        else:
            mapping[name] = _scalar(value or "", number, source)
    return mapping, lines


def _scalar(text: str, number: int, source: str) -> Any:
    if text[:1] == "[" and text[-1:] == "]":
        return [_scalar(item.strip(), number, source) for item in text[1:-1].split(",") if item.strip()]
    if text == "{}":
        return {}
    if text[:1] in ("'", '"') and text[:1] == text[-1:] and len(text) > 1:
        return text[1:-1]
    if text[:1] in tuple("[{&*!|>"):
        raise InputError(
            f"{source}, line {number}: '{text}' can't be read; write it in one line, or use JSON."
        )
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
