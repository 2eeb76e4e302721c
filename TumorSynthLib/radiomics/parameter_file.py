"""Reader of pyradiomics' parameter files: JSON, or the part of YAML that they use.

That part: one `name: value` per line, sections by indentation, lists and mappings in brackets or lists as lines with a dash,
comments. Anything else is refused with its line number rather than guessed, so that no YAML library is needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..small_files import read_small

MAX_BYTES = 2**20  # of a parameter file; one with every setting and feature has 10 kB
MAX_DEPTH = 10  # sections within each other; pyradiomics' own files have 3
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
MAX_DIGITS = 400  # of a whole number; longer ones are infinite, as a float's are
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")  # "infinity" is a name here
CLOSING = {"[": "]", "{": "}"}

Line = tuple[int, int, str]  # number in the file, indentation, text


def read(path: str | Path) -> dict[str, Any]:
    """Content of a parameter file, with or without a byte order mark.

    :raises InputError: the file can't be read, is no plain file, is too large, or is neither JSON nor such YAML.
    """
    data = read_small(path, MAX_BYTES, "extraction settings, YAML or JSON")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The settings file {path} is not UTF-8 text: {error}.") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> dict[str, Any]:
    """Content of a parameter file's text; `source` names it in errors.

    :raises InputError: the text is neither JSON nor such YAML, or gives a name twice.
    """
    problem = ""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_unique(source))
        except (ValueError, RecursionError) as error:  # it may be YAML in one line
            problem = f" ({source} is not valid JSON either: {error})" if source.endswith(".json") else ""
    lines = _lines(text, source)
    if lines and lines[0][2].startswith("{"):
        content, rest = _value(lines[0][2], f"{source}, line {lines[0][0]}{problem}"), lines[1:]
    else:
        content, rest = _block(lines, source)
    if rest:
        raise InputError(f"{source}, line {rest[0][0]}: the indentation fits no section.")
    if not isinstance(content, dict):
        raise InputError(
            f"{source} holds no settings. Expected lines such as 'binWidth: 25' below 'setting:'."
        )
    return content


def _unique(source: str):
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            _add(found, name, value, source)
        return found

    return build


def _add(mapping: dict[str, Any], name: str, value: Any, where: str) -> None:
    if name in mapping:
        raise InputError(f"{where}: '{name}' is given twice. Keep one of them.")
    mapping[name] = value


def _lines(text: str, source: str) -> list[Line]:
    """Lines without comments and blank ones; brackets that go on over several lines are joined into one."""
    lines: list[Line] = []
    open_brackets = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line, depth = _without_comment(raw)
        line = line.rstrip()
        if line.strip() == "---" and lines:
            raise InputError(f"{source}, line {number}: a second document begins. Keep one of them.")
        if not line.strip() or line.strip() == "---":
            continue
        if open_brackets:
            first, indent, start = lines[-1]
            lines[-1] = (first, indent, f"{start} {line.strip()}")
        else:
            indent = len(line) - len(line.lstrip())
            if "\t" in line[:indent]:
                raise InputError(f"{source}, line {number}: indent with spaces, not tabs.")
            lines.append((number, indent, line.strip()))
        open_brackets += depth
    if open_brackets:
        raise InputError(f"{source}, line {lines[-1][0]}: a bracket isn't closed.")
    return lines


def _without_comment(line: str) -> tuple[str, int]:
    """The line up to its comment, and how many more brackets it opens than it closes."""
    quote, depth = "", 0
    for k, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (k == 0 or line[k - 1].isspace()):
            return line[:k], depth
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
    return line, depth


def _block(lines: list[Line], source: str, depth: int = 0) -> tuple[Any, list[Line]]:
    """Value of the lines at the first line's indentation, and the lines after it."""
    if not lines:
        return {}, []
    _check_depth(depth, f"{source}, line {lines[0][0]}")
    indent = lines[0][1]
    if lines[0][2].startswith("-"):
        items = []
        while lines and lines[0][1] == indent and lines[0][2].startswith("-"):
            items.append(_value(lines[0][2][1:].strip(), f"{source}, line {lines[0][0]}"))
            lines = lines[1:]
        return items, lines
    mapping: dict[str, Any] = {}
    while lines and lines[0][1] == indent:
        number, _, line = lines[0]
        match = re.fullmatch(r"(['\"]?)([^'\":]+)\1\s*:(?:\s+(.*))?", line)
        if not match:
            raise InputError(f"{source}, line {number}: expected 'name: value', found '{line}'.")
        name, text = match[2].strip(), match[3]
        lines = lines[1:]
        nested = lines and (lines[0][1] > indent or (lines[0][1] == indent and lines[0][2].startswith("-")))
        if text is None and nested:
            value, lines = _block(lines, source, depth + 1)
        else:
            value = _value(text or "", f"{source}, line {number}")
        _add(mapping, name, value, f"{source}, line {number}")
    return mapping, lines


def _check_depth(depth: int, where: str) -> None:
    if depth > MAX_DEPTH:
        raise InputError(f"{where}: sections are nested more than {MAX_DEPTH} deep.")


def _value(text: str, where: str) -> Any:
    """A scalar, or a list or mapping in brackets."""
    if text[:1] not in CLOSING:
        return _scalar(text, where)
    value, rest = _flow(text, where)
    if rest:
        raise InputError(f"{where}: '{rest}' follows a closed bracket.")
    return value


def _flow(text: str, where: str, depth: int = 0) -> tuple[Any, str]:
    """The list or mapping in brackets that a text begins with, and the rest of the text."""
    _check_depth(depth, where)
    opening, text = text[0], text[1:].lstrip()
    items: list[Any] = []
    mapping: dict[str, Any] = {}
    while text[:1] != CLOSING[opening]:
        name = None
        if opening == "{":
            match = re.match(r"(['\"]?)([^'\":,{}\[\]]+)\1\s*(?::\s*|(?=[,}]))", text)
            if not match:
                raise InputError(f"{where}: expected 'name: value' in braces, found '{text}'.")
            name, text = match[2].strip(), text[match.end() :]
        if text[:1] in CLOSING:
            value, text = _flow(text, where, depth + 1)
        else:
            match = re.match(r"'[^']*'|\"[^\"]*\"|[^,\[\]{}]*", text)
            value, text = _scalar(match[0].strip(), where), text[match.end() :]
        _add(mapping, name, value, where) if name is not None else items.append(value)
        text = text.lstrip()
        if text[:1] == ",":
            text = text[1:].lstrip()
        elif text[:1] != CLOSING[opening]:
            raise InputError(f"{where}: expected ',' or '{CLOSING[opening]}', found '{text[:40]}'.")
    return (mapping if opening == "{" else items), text[1:].lstrip()


def _scalar(text: str, where: str) -> Any:
    if text[:1] in ("'", '"') and text[:1] == text[-1:] and len(text) > 1:
        return text[1:-1]
    if text[:1] in tuple("[{&*!|>"):
        raise InputError(f"{where}: '{text}' can't be read; write it in one line, or use JSON.")
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    if re.fullmatch(r"[-+]?0[0-9_]+", text):
        raise InputError(f"{where}: '{text}' is octal in YAML. Write the number without a leading 0.")
    if _INTEGER.fullmatch(text) and len(text) < MAX_DIGITS:
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text
