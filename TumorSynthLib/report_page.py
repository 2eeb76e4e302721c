"""The report's page: style sheet, skeleton, and how numbers are written."""

from __future__ import annotations

from html import escape

STYLE = """
:root {
  color-scheme: light dark; --paper: #fcfcfa; --card: #ffffff; --ink: #1c2530; --soft: #5b6775;
  --line: #e1e5ea; --asked: #a9b8cb; --reached: #2a66a8; --good: #24734f; --fair: #8a5d00; --off: #b23a26;
  --tint: #f2f5f9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121519; --card: #1a1e24; --ink: #e3e7ec; --soft: #99a5b3; --line: #2c333c; --asked: #5d7088;
    --reached: #74aef0; --good: #67c79a; --fair: #e0b252; --off: #f0836f; --tint: #21272f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 40px 28px 72px; }
h1 { font-size: 28px; line-height: 1.2; font-weight: 620; letter-spacing: -.01em; margin: 0 0 4px; }
h2 { font-size: 20px; font-weight: 620; margin: 0 0 2px; }
h3 { font-size: 14px; font-weight: 620; margin: 26px 0 8px; }
p { margin: 0; }
.soft { color: var(--soft); }
.note { color: var(--soft); font-size: 13px; margin-top: 8px; }
.safety { color: var(--off); font-weight: 550; margin-bottom: 26px; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 26px 28px;
  margin-top: 22px;
}
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { font-weight: 550; color: var(--soft); font-size: 12.5px; text-align: right; white-space: nowrap; }
td { text-align: right; white-space: nowrap; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 130px; }
th:last-child, td:last-child { padding-right: 0; }
td small { color: var(--soft); font-size: 12.5px; }
td[title] { cursor: help; }
.good { color: var(--good); }
.fair { color: var(--fair); }
.off { color: var(--off); }
.good, .fair, .off { font-weight: 550; }
a { color: var(--reached); text-decoration: none; }
a:hover { text-decoration: underline; }
.panels {
  display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px; max-width: 1080px;
  margin: 4px auto 0;
}
.panels .head { font-size: 12.5px; font-weight: 550; color: var(--soft); text-align: center; }
.view {
  position: relative; background: #000; border-radius: 4px; overflow: hidden; display: flex;
  align-items: center; justify-content: center; margin: 0;
}
.view svg { display: block; width: 100%; height: auto; max-height: 440px; }
.marks text {
  fill: #fff; stroke: #000; stroke-width: 3px; paint-order: stroke; font: 600 12px system-ui, sans-serif;
}
.marks .bar { stroke: #fff; stroke-width: 2; }
.marks .edge { stroke: #000; stroke-width: 4; }
.contour {
  fill: none; stroke: #ffe14d; stroke-width: 1.3; vector-effect: non-scaling-stroke; stroke-linejoin: round;
}
.toggle { accent-color: var(--reached); margin: 16px 6px 8px 0; vertical-align: middle; }
.toggle + label { font-size: 13px; color: var(--soft); vertical-align: middle; margin-right: 18px; }
.toggle:not(:checked) ~ .panels .contour { display: none; }
.legend {
  display: inline-flex; align-items: center; gap: 8px; font-size: 13px; color: var(--soft);
  vertical-align: middle;
}
.legend i {
  display: inline-block; width: 120px; height: 9px; border-radius: 5px;
  background: linear-gradient(90deg, #409cff, #000 50%, #ff9632);
}
.plot { width: 100%; max-width: 860px; height: auto; display: block; }
.plot text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.plot .tick { fill: var(--soft); font-size: 10.5px; }
.plot .grid { stroke: var(--line); }
.plot .zero { stroke: var(--soft); }
.plot .asked { fill: var(--asked); }
.plot .reached { fill: var(--reached); }
.key {
  display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 14px;
  vertical-align: -1px;
}
.key.asked { background: var(--asked); margin-left: 0; }
.key.reached { background: var(--reached); }
.warnings {
  margin: 18px 0 0; padding: 10px 14px 10px 32px; background: var(--tint);
  border-left: 3px solid var(--fair); border-radius: 4px; font-size: 14px;
}
details { margin-top: 14px; font-size: 14px; }
summary { cursor: pointer; color: var(--soft); font-weight: 550; }
details[open] summary { margin-bottom: 8px; }
pre {
  background: var(--tint); border-radius: 6px; padding: 12px 14px; overflow-x: auto; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Consolas, monospace;
}
.wide { overflow-x: auto; }
@media (max-width: 720px) {
  main { padding: 22px 12px; }
  section { padding: 18px 14px; }
}
@media print {
  :root {
    --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --asked: #a9b8cb;
    --reached: #2a66a8; --good: #24734f; --fair: #8a5d00; --off: #b23a26; --tint: #f2f5f9;
  }
  main { max-width: none; padding: 0; }
  body { font-size: 11pt; }
  section { border: 0; padding: 0; margin-top: 10mm; }
  .toggle, .toggle + label { display: none; }
  .panels, .plot, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .view svg { max-height: 78mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

# The page may load nothing: pictures and style are in it, scripts there are none.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: str) -> str:
    """A whole HTML document; `body` is HTML, `title` plain text."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def number(value: float | None) -> str:
    """Four significant digits, with a real minus sign; a dash for what is missing or not finite."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return "–"
    size = abs(value)
    if size and not 1e-3 <= size < 1e7:
        mantissa, exponent = f"{value:.2e}".split("e")
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa} × 10{power}".replace("-", "−")
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; none where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")
