"""Reads what settings are made of: strict YAML, environment variables over it, and secrets kept elsewhere.

YAML is read as plain text, numbers, lists and mappings, by the rules of YAML 1.2: `NO` and `22:00` are text, 0.10 is the
decimal it looks like. Nothing in a file can name a Python object. No message repeats a value, since it may be a secret.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

SIZE_MAX = 4 * 1024 * 1024
"""Most bytes of a settings file: some ten thousand followers."""
NODES_MAX = 500_000
"""Most values after every alias is written out."""
DEPTH_MAX = 32
MAGNITUDE_MAX = 20
"""Most digits of a number before the point, or zeros after it."""
SECRET_SIZE_MAX = 4096
PREFIX = "MT_COPIER__"
"""Environment variables with this prefix are settings: MT_COPIER__ACCOUNTS__ALICE__PASSWORD."""

PathOf = tuple[str | int, ...]

_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "null", "bool", "int", "float", "timestamp", "merge", "value")
}
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,6})?")
_ANY_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")


class Problem(msgspec.Struct, frozen=True):
    """One mistake: where in the settings, and what is wrong there."""

    path: PathOf
    text: str


class Source(msgspec.Struct, kw_only=True):
    """What was read: the tree of values, where each stands, and the mistakes found while reading."""

    name: str
    tree: dict[str, Any]
    places: dict[PathOf, str]
    """By path: `line 12`, or the environment variable that said so."""
    problems: list[Problem]
    folder: Path
    private: bool
    """Nobody else can read the file, so that a secret may stand in it."""
    env: Mapping[str, str]
    secret_names: frozenset[str]
    """Settings whose variables are taken as they are, though they begin with a bracket."""
    secrets: list[str] = []
    """Every secret that was come across, so that no message shows it."""

    def __repr__(self) -> str:
        """Name the file only: tree and environment may hold secrets, and a traceback may show this."""
        return f"Source({self.name!r})"


class WrittenSettings(PydanticBaseSettingsSource):
    """Gives what was read to the settings class, file and environment as the one tree that line numbers refer to."""

    def __init__(self, settings_cls: type[BaseSettings], source: Source) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return one setting at the top as it was written."""
        return self._source.tree.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return everything as it was written, misspelt names too, which the settings class then refuses."""
        return _Unshown(self._source.tree)


class _Unshown(dict[str, Any]):
    """Shows nothing: with PYDANTIC_SETTINGS_DEBUG set, what a source gives is logged, and secrets are in it."""

    def __repr__(self) -> str:
        return f"<{len(self)} settings>"


class FromEnvironment(str):
    """A value that an environment variable gave; a plain secret is welcome there."""

    __slots__ = ()


def read_file(path: Path, env: Mapping[str, str], secret_names: frozenset[str] = frozenset()) -> Source:
    """Read a settings file and the environment over it; a file that cannot be read is a problem, not an exception."""
    source = _source(str(path), path.parent, env, secret_names)
    try:
        with path.open("rb") as file:
            source.private = _is_private(os.fstat(file.fileno()))
            data = file.read(SIZE_MAX + 1)
    except OSError as error:
        source.problems.append(Problem((), f"cannot be read: {error.strerror or 'unknown reason'}"))
        return source
    return _fill(source, data)


def read_text(text: str, env: Mapping[str, str], secret_names: frozenset[str] = frozenset(), *, name: str = "settings") -> Source:
    """Read settings from a text that nobody else can see, and the environment over it."""
    source = _source(name, Path(), env, secret_names)
    source.private = True
    return _fill(source, text.encode(errors="surrogatepass"))


def _source(name: str, folder: Path, env: Mapping[str, str], secret_names: frozenset[str]) -> Source:
    return Source(name=name, tree={}, places={}, problems=[], folder=folder, private=False, env=env, secret_names=secret_names)


def resolve_secret(value: object, source: Source) -> str:
    """Return the secret that `value` is or refers to; raise `ValueError` with what to mend, never with the secret."""
    match value:
        case FromEnvironment():
            source.secrets.append(value)
            return str(value)
        case str():
            source.secrets.append(value)
            if not source.private:
                raise ValueError(
                    "a secret in a file that others may read; chmod 600 the file, "
                    "or write {env: NAME}, {file: path} or {keyring: service/name}"
                )
            return value
        case {"env": str(name), **rest} if not rest:
            found = source.env.get(name)
            if not found:
                raise ValueError(f"the environment variable {name} is not set")
            source.secrets.append(found)
            return found
        case {"file": str(name), **rest} if not rest:
            return _secret_file(source.folder / Path(name).expanduser())
        case {"keyring": str(name), **rest} if not rest:
            return _secret_keyring(name)
        case _:
            raise ValueError("expected text in quotes, {env: NAME}, {file: path} or {keyring: service/name}")


# YAML ------------------------------------------------------------------------------------------------------------------


def _fill(source: Source, data: bytes) -> Source:
    if len(data) > SIZE_MAX:
        source.problems.append(Problem((), f"larger than {SIZE_MAX // 1024 // 1024} MiB, which no settings need"))
        return source
    try:
        if _is_too_deep(data):
            source.problems.append(Problem((), f"nested deeper than {DEPTH_MAX} levels"))
            return source
        root = yaml.compose(data, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        source.problems.append(Problem((), _yaml_mistake(error)))
        return source
    except (yaml.YAMLError, UnicodeError, RecursionError):
        source.problems.append(Problem((), "not a text in UTF-8 that YAML can read"))
        return source
    if root is not None and not isinstance(root, MappingNode):
        source.problems.append(Problem((), "expected settings such as `accounts:`, found a list or a single value"))
    elif root is not None and not _is_bomb(root, source):
        source.tree = _mapping(root, (), source)
    _overlay(source)
    _check_numbers(source.tree, (), source)
    return source


def _is_too_deep(data: bytes) -> bool:
    """Look before composing: the C library overflows its stack on what is nested without end."""
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            return True
    return False


def _yaml_mistake(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    if isinstance(error, yaml.composer.ComposerError):
        what = "expected one document, and an anchor (&name) before its alias (*name)"
    else:
        what = (error.problem or "not YAML").split(", but found")[0]
        what = re.sub(r"'[^']{3,}'|\"[^\"]{3,}\"", "something else", what)
    return f"{where}{what}; a value that begins with * & ! % @ ` or holds `: ` goes into quotes"


def _is_bomb(root: Node, source: Source) -> bool:
    sizes: dict[int, int] = {}

    def size(node: Node, depth: int) -> int:
        if depth > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX} levels, or an alias inside its own anchor")
        known = sizes.get(id(node))
        if known is None:
            known = sizes[id(node)] = 1 + sum(size(child, depth + 1) for child in _children(node))
        if known > NODES_MAX:
            raise ValueError(f"more than {NODES_MAX} values once the aliases are written out")
        return known

    try:
        size(root, 0)
    except ValueError as error:
        source.problems.append(Problem((), str(error)))
        return True
    return False


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _value(node: Node, path: PathOf, source: Source) -> Any:
    source.places.setdefault(path, f"line {node.start_mark.line + 1}")
    if node.tag not in _TAGS:
        source.problems.append(Problem(path, "a tag (!name) is not allowed; a value that begins with ! goes into quotes"))
        return None
    match node:
        case MappingNode():
            return _mapping(node, path, source)
        case SequenceNode():
            return [_value(child, (*path, index), source) for index, child in enumerate(node.value)]
        case ScalarNode() if not node.style:
            return _plain(node.value)
        case _:
            return node.value


def _plain(text: str) -> object:
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text) and len(text) < 100:
        return int(text)
    if _FLOAT.fullmatch(text) and len(text) < 100:
        return Decimal(text)
    return text


def _check_numbers(value: object, path: PathOf, source: Source) -> None:
    """Find numbers with which no arithmetic can be done: 1e999999999 is short to write and long to add."""
    match value:
        case dict():
            for key, child in value.items():
                _check_numbers(child, (*path, key), source)
        case list():
            for index, child in enumerate(value):
                _check_numbers(child, (*path, index), source)
        case bool() | None:
            pass
        case _ if path[-1] not in source.secret_names and _ANY_NUMBER.fullmatch(text := str(value)):
            if abs(Decimal(text).adjusted()) > MAGNITUDE_MAX if _FLOAT.fullmatch(text) else "e" in text.lower():
                source.problems.append(Problem(path, "a number with more digits than any account needs"))


def _mapping(node: MappingNode, path: PathOf, source: Source) -> dict[str, Any]:
    result: dict[str, Any] = {}
    first: dict[str, int] = {}
    merged: list[Node] = []
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            source.problems.append(Problem(path, f"line {line}: expected a name before the colon, found a list or a mapping"))
            continue
        key = key_node.value
        if key == "<<" and not key_node.style:
            merged += value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            continue
        if key in first:
            source.problems.append(Problem((*path, key), f"stands twice, on lines {first[key]} and {line}"))
            continue
        first[key] = line
        source.places[*path, key] = f"line {line}"
        result[key] = _value(value_node, (*path, key), source)
    for other in merged:
        if not isinstance(other, MappingNode):
            source.problems.append(Problem(path, "expected `<<: *name` to name a mapping"))
            continue
        result = _mapping(other, path, source) | result
    return result


# Environment -----------------------------------------------------------------------------------------------------------


def _overlay(source: Source) -> None:
    """Lay the environment's settings over the file's; a longer name goes deeper, so it comes later."""
    for name in sorted(name for name in source.env if name.upper().startswith(PREFIX)):
        try:
            _overlay_one(name, source)
        except ValueError as error:
            source.problems.append(Problem((), f"the environment variable {name} {error}"))


def almost_settings(source: Source, sections: Iterable[str]) -> list[Problem]:
    """Find the variables that miss the second underscore before one of these names, and that no `{env: NAME}` asked for."""
    begins = tuple(f"{PREFIX[:-1]}{section.upper()}" for section in sections)
    found = []
    for name in sorted(source.env):
        if (
            name.upper().startswith(begins)
            and name.upper().partition("__")[0] in begins
            and source.env[name] not in source.secrets
        ):
            meant = f"{PREFIX}{name[len(PREFIX) - 1 :]}"
            found.append(Problem((), f"the environment variable {name} says nothing here; the setting is {meant}"))
    return found


def _overlay_one(name: str, source: Source) -> None:
    steps = name[len(PREFIX) :].split("__")
    if not all(steps):
        raise ValueError("has an empty name between its __")
    node: Any = source.tree
    path: tuple[str, ...] = ()
    for step in steps[:-1]:
        key = _key(node, step)
        path = (*path, key)
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            what = "a list, which is replaced as a whole" if isinstance(node, list) else "a single value"
            raise ValueError(f"goes deeper, but {'.'.join(path)} is {what}")
    key = _key(node, steps[-1])
    node[key] = _environment_value(source.env[name], (*path, key), name, source)
    source.places[*path, key] = name


def _key(node: dict[str, Any], step: str) -> str:
    """Return the key that a variable's step means: written in any case, with _ for what a shell cannot write."""
    meant = [key for key in node if re.sub(r"[^0-9a-z]", "_", key.casefold()) == step.casefold()]
    if len(meant) > 1:
        raise ValueError(f"may mean {' or '.join(meant)}")
    return meant[0] if meant else step.lower()


def _environment_value(text: str, path: PathOf, name: str, source: Source) -> object:
    if path[-1] in source.secret_names or not text.startswith(("[", "{")):
        return FromEnvironment(text)
    inner = read_text(f"value: {text}", {}, name=name)
    source.problems.extend(Problem(path, f"the environment variable {name}: {problem.text}") for problem in inner.problems)
    return _marked(inner.tree.get("value"))


def _marked(value: Any) -> Any:
    match value:
        case str():
            return FromEnvironment(value)
        case list():
            return [_marked(item) for item in value]
        case dict():
            return {key: _marked(item) for key, item in value.items()}
        case _:
            return value


# Secrets ---------------------------------------------------------------------------------------------------------------


def _is_private(status: os.stat_result) -> bool:
    return os.name != "posix" or not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _secret_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"the secret's file {path} is not a plain file")
            if not _is_private(status):
                mode = stat.S_IMODE(status.st_mode)
                raise ValueError(f"the secret's file {path} has mode {mode:04o}, so others may read it; chmod 600 it")
            data = file.read(SECRET_SIZE_MAX + 1)
    except OSError as error:
        raise ValueError(f"the secret's file {path} cannot be read: {error.strerror}") from None
    if len(data) > SECRET_SIZE_MAX:
        raise ValueError(f"the secret's file {path} is larger than {SECRET_SIZE_MAX} bytes")
    try:
        secret = data.decode().strip("\r\n")
    except UnicodeError:
        raise ValueError(f"the secret's file {path} is not text in UTF-8") from None
    if not secret:
        raise ValueError(f"the secret's file {path} is empty")
    return secret


def _secret_keyring(name: str) -> str:
    service, _, user = name.rpartition("/")
    if not service or not user:
        raise ValueError("expected {keyring: service/name}")
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise ValueError("the keyring package is not installed: pip install 'mt-copier[keyring]'") from None
    try:
        secret = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise ValueError(f"the keyring does not open: {type(error).__name__}") from None
    if not secret:
        raise ValueError(f"the keyring has no entry for service {service}, name {user}")
    return secret
