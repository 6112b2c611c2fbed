"""Writes the configuration reference from the settings: `python -m copier.settings_reference docs/configuration.md`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from copier.settings import json_schema
from copier.settings_check import Schema, is_secret

Node = Mapping[str, Any]

INTRODUCTION = """\
# Configuration

Every setting there is. This page is written from the settings themselves (`make reference`), so it is never behind them.

Settings are read from one YAML file, then from environment variables, which win. What is left out has its default. Every
mistake is told at the start, all at once, each with its line, its path, what was there and what was expected; with a mistake
nothing starts.

**YAML** is read by the rules of YAML 1.2: `NO`, `on` and `22:00` are text, and 0.10 is the decimal it looks like. A key that
stands twice is a mistake. Anchors (`&rules`, `*rules`, `<<: *rules`) save repeating what followers have in common.

**Environment variables** begin with `MT_COPIER__` and name the path with `__` between its steps, in capitals or not; what a
shell cannot write in a name is `_`. `MT_COPIER__ACCOUNTS__ALICE__LEVERAGE=500` is `accounts.alice.leverage`. A list is given as
a whole: `MT_COPIER__FOLLOWERS__BOB__GROUPS='[funded, eu]'`. A variable that names no setting is a mistake,
and so is one with a single `_` before it.

**Secrets**, and URLs with a password, are never shown, and are given in one of these ways:

| Way | Where the secret is |
|---|---|
| `{env: NAME}` | in an environment variable of any name |
| `{file: path}` | in a file, refused if anyone but its owner may read it; a path from the settings file's own folder |
| `{keyring: service/name}` | in the system's keyring, with the extra `keyring` installed |
| the variable of the setting itself | `MT_COPIER__STREAM__SECRET=...` |
| plain text | in the settings file, refused if anyone but its owner may read the file |
"""


def reference() -> str:
    """Return the page as Markdown."""
    schema = json_schema()
    page = Page(Schema(schema))
    page.settings("", schema)
    return INTRODUCTION + "\n" + "\n".join(page.lines).rstrip() + "\n"


class Page:
    """The sections of the page, one for every group of settings, in the order in which they refer to each other."""

    def __init__(self, schema: Schema) -> None:
        self.lines: list[str] = []
        self._schema = schema
        self._told: dict[str, str] = {}

    def settings(self, place: str, node: Node) -> None:
        """Write a section for a group of settings, then those of what stands in it."""
        node = self._schema.resolve(node)
        self.lines += [f"## {f'`{place}`' if place else 'Top level'}", ""]
        choices = [self._schema.resolve(choice) for choice in node.get("oneOf", ())]
        if not choices:
            if place and node.get("description"):
                self.lines += [node["description"], ""]
            self._table(node, node["properties"])
            self._below(place, node["properties"])
            return
        key = node["discriminator"]["propertyName"]
        shared = [name for name in choices[0]["properties"] if all(_same(name, choices) for choice in choices)]
        self.lines += [f"{node.get('description', '')} Which ones there are depends on `{key}`:".strip(), ""]
        self.lines += ["| " + f"`{key}`" + " | |", "|---|---|"]
        self.lines += [f"| `{choice['properties'][key]['const']}` | {_cell(choice['description'])} |" for choice in choices]
        self.lines.append("")
        if shared:
            self.lines += [f"With every `{key}`:", ""]
            self._table(choices[0], {name: choices[0]["properties"][name] for name in shared})
        for choice in choices:
            own = {name: child for name, child in choice["properties"].items() if name not in (*shared, key)}
            if own:
                self.lines += [f"With `{key}: {choice['properties'][key]['const']}`:", ""]
                self._table(choice, own)
        for choice in choices:
            self._below(place, {name: child for name, child in choice["properties"].items() if name != key})

    def _table(self, node: Node, properties: Mapping[str, Node]) -> None:
        self.lines += ["| Setting | Value | Default | |", "|---|---|---|---|"]
        for name, child in properties.items():
            default = "required" if name in node.get("required", ()) else _default(child)
            description = self._schema.resolve(child).get("description", "")
            self.lines.append(f"| `{name}` | {_cell(self._value(child))} | {default} | {_cell(description)} |")
        self.lines.append("")

    def _below(self, place: str, properties: Mapping[str, Node]) -> None:
        for name, child in properties.items():
            for below, group in self._groups(f"{place}.{name}".removeprefix("."), child):
                kind = _identity(group)
                if kind in self._told and kind:
                    self.lines += [f"## `{below}`", "", f"The same settings as under `{self._told[kind]}`.", ""]
                    continue
                self._told[kind] = below
                self.settings(below, group)

    def _groups(self, place: str, node: Node) -> Iterator[tuple[str, Node]]:
        """Find the groups of settings in one setting: itself, or those of a list or of names."""
        whole = self._schema.resolve(node)
        if is_secret(whole):
            return
        if "oneOf" in whole or "properties" in whole:
            yield place, node
        if isinstance(whole.get("items"), Mapping):
            yield from self._groups(f"{place}[]", whole["items"])
        if isinstance(whole.get("additionalProperties"), Mapping):
            yield from self._groups(f"{place}.<name>", whole["additionalProperties"])
        for choice in whole.get("anyOf", ()):
            yield from self._groups(place, choice)

    def _value(self, node: Node) -> str:
        node = self._schema.resolve(node)
        kinds = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
        if is_secret(node):
            return "URL" if "://" in str(node.get("default")) else "secret"
        if "enum" in node:
            return ", ".join(f"`{value}`" for value in node["enum"])
        if "const" in node:
            return f"`{node['const']}`"
        if {choice.get("type") for choice in kinds} == {"number", "string"}:
            return "number" + _bounds(node)
        if len(kinds) == 1:
            return self._value(kinds[0])
        if "oneOf" in node or "properties" in node:
            return "settings"
        if any("properties" in self._schema.resolve(choice) for choice in kinds):
            return "settings, or the mode alone"
        match node.get("type"):
            case "array":
                return f"list of {self._value(node['items'])}"
            case "object":
                return f"name: {self._value(node['additionalProperties'])}"
            case "integer":
                return "whole number" + _bounds(node)
            case "boolean":
                return "`true`, `false`"
            case "string":
                return "path" if node.get("format") == "path" else "text"
            case _:
                return "number or text" if kinds else "text"


def _same(name: str, choices: Sequence[Node]) -> bool:
    first = choices[0]
    return all(
        choice["properties"].get(name) == first["properties"][name]
        and (name in choice.get("required", ())) == (name in first.get("required", ()))
        for choice in choices
    )


def _identity(group: Node) -> str:
    return str(group.get("$ref", ""))


def _bounds(node: Node) -> str:
    words = {"exclusiveMinimum": "more than", "minimum": "at least", "exclusiveMaximum": "less than", "maximum": "at most"}
    told = [f"{word} {node[key]}" for key, word in words.items() if key in node]
    return f", {' and '.join(told)}" if told else ""


def _default(node: Node) -> str:
    match node.get("default"):
        case None:
            return "not set"
        case bool() as value:
            return f"`{str(value).lower()}`"
        case dict() as value:
            return "see below" if value else "none"
        case list() as value:
            return f"`[{', '.join(map(str, value))}]`" if value else "none"
        case "":
            return "empty"
        case value:
            return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write the page to the file that the command line names."""
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
