"""MQL sources -> C++ that g++ compiles with `mql.h`: what the two languages write differently, token by token."""

import re
from pathlib import Path
from typing import NamedTuple

_TOKENS = re.compile(
    r"""
    (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<directive>^[ \t]*\#(?:[^\n\\]|\\\n|\\)*)
  | (?P<text>"(?:[^"\\\n]|\\.)*")
  | (?P<date>D'[^'\n]*')
  | (?P<letter>'(?:[^'\\\n]|\\.)')
  | (?P<name>[A-Za-z_]\w*)
  | (?P<number>\d[\w.]*|\.\d\w*)
  | (?P<space>\s+)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_NOT_A_TYPE = {"return", "else", "case", "delete", "new", "const", "static", "virtual"}


class Token(NamedTuple):
    kind: str
    text: str


class NotMql(Exception):
    """The source has something the rewriter does not know."""


def tokens(source: str) -> list[Token]:
    """Take a source apart; comments become as many line ends as they had."""
    found = []
    for match in _TOKENS.finditer(source):
        kind, text = str(match.lastgroup), match[0]
        if kind == "comment":
            kind, text = "space", "\n" * text.count("\n") or " "
        found.append(Token(kind, text))
    return found


def rewrite(path: Path, seen: set[Path] | None = None) -> str:
    """Return a source, with everything it includes in place, as C++."""
    seen = set() if seen is None else seen
    path = path.resolve()
    if path in seen:
        return ""
    seen.add(path)
    body = _rewritten(tokens(path.read_text(encoding="ascii")), path, seen)
    return f'#line 1 "{path}"\n{body}\n'


def _rewritten(parts: list[Token], path: Path, seen: set[Path]) -> str:
    out: list[str] = []
    line = 1
    at = 0
    while at < len(parts):
        kind, text = parts[at]
        at += 1
        line += text.count("\n")
        if kind == "directive" and text.split()[0] == "#import":
            at = _import(parts, at, out)
        elif kind == "directive":
            out.append(_directive(text.strip(), path, seen, line))
        elif kind == "text":
            out.append(f"MqlString(u{text})")
        elif kind == "letter":
            out.append(f"((ushort)u{text})")
        elif kind == "date":
            raise NotMql(f"{path.name}:{line}: dates are written as numbers here, not {text}")
        elif kind == "name" and text in ("input", "sinput"):
            at = _input(parts, at, out)
        elif kind == "name" and (array := _array(parts, at - 1)):
            written, at = array
            out.append(written)
        else:
            out.append(text)
    return "".join(out)


def _directive(text: str, path: Path, seen: set[Path], line: int) -> str:
    word = text[1:].split(None, 1)[0]
    if word == "include":
        name = re.split(r'["<>]', text)[1].replace("\\", "/")
        return rewrite(path.parent / name, seen) + f'#line {line} "{path}"'
    if word == "property":
        return ""
    if word == "define":
        return re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: f"MqlString(u{found[0]})", text)
    if word in ("ifdef", "ifndef", "else", "endif", "undef"):
        return text
    raise NotMql(f"{path.name}:{line}: {text}")


_PROTOTYPE = re.compile(r"(\w+)\s+(\w+)\s*\(([^)]*)\)\s*;")
_PARAMETER = re.compile(r"(?P<const>const\s+)?(?P<type>\w+)\s+(?P<array>&\s*)?(?P<name>\w+)(?:\[\])?\Z")
_IMPORTED = {"int": ("int", "int"), "long": ("long", "long"), "string": ("const char16_t *", "const string &")}


def _import(parts: list[Token], at: int, out: list[str]) -> int:
    """Write the functions of a library twice: as it has them, and as MQL calls them."""
    between = []
    while parts[at].kind != "directive":
        between.append(parts[at].text)
        at += 1
    text = "".join(between)
    for result, name, given in _PROTOTYPE.findall(text):
        parameters = [_PARAMETER.match(each.strip()) for each in given.split(",") if each.strip() not in ("", "void")]
        plain, called, passed = [], [], []
        for each in parameters:
            if each is None:
                raise NotMql(f"a parameter of the imported {name}")
            const = "const " if each["const"] else ""
            if each["array"]:
                plain.append(f"{const}{each['type']} *")
                called.append(f"{const}MqlArray<{each['type']}> &{each['name']}")
                passed.append(f"{each['name']}.v.data()")
            else:
                plain.append(_IMPORTED[each["type"]][0])
                called.append(f"{_IMPORTED[each['type']][1]} {each['name']}")
                passed.append(each["name"] + (".s.c_str()" if each["type"] == "string" else ""))
        out.append(f'extern "C" {result} {name}({", ".join(plain)}); ')
        if any("*" in each for each in plain):
            out.append(f"inline {result} {name}({', '.join(called)}) {{ return {name}({', '.join(passed)}); }} ")
    out.append("\n" * text.count("\n"))
    return at + 1


def _input(parts: list[Token], at: int, out: list[str]) -> int:
    words: list[Token] = []
    while parts[at].text != ";":
        if parts[at].kind != "space":
            words.append(parts[at])
        at += 1
    if words[0].text == "group":
        return at + 1
    kind, name, _, *given = words
    value = "".join(f"MqlString(u{word.text})" if word.kind == "text" else word.text for word in given)
    out.append(f"MQL_INPUT({kind.text}, {name.text}, {value})")
    return at + 1


def _array(parts: list[Token], at: int) -> tuple[str, int] | None:
    """Return a declaration `T name[n]` or `T &name[]` as C++ and the place behind it, or None where it is none."""
    kind = parts[at].text
    if kind in _NOT_A_TYPE:
        return None
    at += 1
    reference = ""
    spaces = 0
    while parts[at].kind == "space" or parts[at].text == "&":
        spaces += parts[at].kind == "space"
        reference += "&" if parts[at].text == "&" else ""
        at += 1
    if reference == "&&" or not spaces or parts[at].kind != "name" or parts[at + 1].text != "[":
        return None
    name = parts[at].text
    at += 2
    size = ""
    while parts[at].text != "]":
        size += parts[at].text
        at += 1
    cpp = f"MqlFixed<{kind}, {size}>" if size.strip() else f"MqlArray<{kind}>"
    return f"{cpp} {reference}{name}", at + 1
