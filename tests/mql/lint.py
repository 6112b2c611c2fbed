"""The house rules of MQL sources: what g++ would take and MetaEditor would not, line by line."""

import re
from pathlib import Path

from tests.mql.rewriter import tokens

_WORDS = {
    "auto", "nullptr", "try", "catch", "throw", "goto", "namespace", "using", "typedef", "decltype", "constexpr", "union",
    "friend", "mutable", "explicit", "noexcept", "static_cast", "dynamic_cast", "reinterpret_cast", "sizeof", "unsigned",
    "signed", "size_t", "int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "wchar_t",
    "printf", "malloc", "free", "new", "delete", "NULL", "lambda", "operator",
}  # fmt: skip
_TYPES = r"(?:bool|char|uchar|short|ushort|int|uint|long|ulong|float|double|string|datetime|color)"
_SHAPES = {
    "->": re.compile(r"->"),
    "::": re.compile(r"::"),
    "pointer": re.compile(rf"\b{_TYPES}\s*\*"),
    "#if with an expression": re.compile(r"^\s*#\s*(?:if|elif)\b"),
    "a brace initialiser": re.compile(r"=\s*\{"),
    "one declarator per array": re.compile(rf"\b{_TYPES}\s+\w+\s*\[[^\]]*\]\s*,\s*\w+\s*\["),
    "a cast between text and number": re.compile(r"\(string\)"),
    "a local reference": re.compile(r"^\s*(?:const\s+)?\w+\s*&\s*\w+\s*="),
    "a range-for": re.compile(r"\bfor\s*\([^;)]*:[^;)]*\)"),
    "an enum without a name": re.compile(r"\benum\s*\{"),
    "multiple inheritance": re.compile(r"\bclass\s+\w+\s*:\s*\w+\s+\w+\s*,"),
    "arithmetic on a text literal": re.compile(r'"\s*[-*/]|"\s*\+\s*\d|\d\s*\+\s*"'),
    "an MQL4 price of the chart": re.compile(r"\b(?:Ask|Bid|Point|Digits|Bars|Close|Open)\b(?!\s*\()"),
}
COMMENT_TAG_MAX = 27


def sources(folder: Path) -> list[Path]:
    """Return every MQL source below a folder."""
    return sorted(path for path in folder.rglob("*.mq*") if path.suffix in (".mqh", ".mq4", ".mq5"))


def findings(path: Path) -> list[str]:
    """Return what breaks a rule, each with its line."""
    text = path.read_text(encoding="utf-8")
    found = [f"line {number}: not ASCII" for number, line in enumerate(text.splitlines(), 1) if not line.isascii()]
    if found:
        return found
    bare: list[str] = []
    for kind, token in tokens(text):
        bare.append(re.sub(r'"(?:[^"\\]|\\.)*"', '""', token) if kind in ("text", "directive") else token)
        if kind == "name" and token in _WORDS:
            found.append(f"line {_line(bare)}: {token}")
        if kind == "date":
            found.append(f"line {_line(bare)}: a date literal")
    for number, line in enumerate("".join(bare).splitlines(), 1):
        found += [f"line {number}: {name}" for name, shape in _SHAPES.items() if shape.search(line)]
    for size in re.findall(r"#define COMMENT_MAX (\d+)", text):
        if int(size) > COMMENT_TAG_MAX:
            found.append(f"comments of {size} characters, at most {COMMENT_TAG_MAX} survive")
    return found


def _line(parts: list[str]) -> int:
    return sum(part.count("\n") for part in parts) + 1
