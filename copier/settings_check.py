"""Says what is wrong with settings, in a trader's words: at which path, what was there, what was expected."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from copier.settings_source import SIZE_MAX, PathOf, Problem, Source

ANY = "*"
"""Stands in a place for a name of the trader's own, or a number in a list."""


class Schema:
    """Every setting there is, by its place, such as `masters.*.poll_ms`."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self.places: dict[tuple[str, ...], Mapping[str, Any]] = dict(self._walk(schema, ()))
        self.secret_names = frozenset(place[-1] for place, node in self.places.items() if is_secret(node))

    def resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a node with what it refers to, its own words first."""
        if "$ref" not in node:
            return node
        return {**self._definitions[node["$ref"].rsplit("/", 1)[1]], **{key: node[key] for key in node if key != "$ref"}}

    def siblings(self, path: PathOf) -> list[str]:
        """Return the settings that may stand where `path` stands."""
        names = {place[-1] for place in self.places if len(place) == len(path) and _fits(place[:-1], path[:-1])}
        return sorted(names - {ANY})

    def description(self, path: PathOf) -> str:
        """Return the sentence under the setting, or nothing."""
        found = next((node for place, node in self.places.items() if _fits(place, path)), {})
        return str(found.get("description", ""))

    def elsewhere(self, name: str) -> list[str]:
        """Return where else a setting of this name stands."""
        return [".".join(place) for place in self.places if place[-1] == name]

    def _walk(self, node: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
        node = self.resolve(node)
        if is_secret(node):
            return
        for name, child in node.get("properties", {}).items():
            yield (*place, name), self.resolve(child)
            yield from self._walk(child, (*place, name))
        for child in (node.get("items"), node.get("additionalProperties")):
            if isinstance(child, Mapping):
                yield from self._walk(child, (*place, ANY))
        for child in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from self._walk(child, place)


def is_secret(node: Mapping[str, Any]) -> bool:
    """Return whether a setting of the schema is a secret."""
    return any(choice.get("writeOnly") for choice in (node, *node.get("anyOf", ())))


def _fits(place: Sequence[str], path: PathOf) -> bool:
    return len(place) == len(path) and all(known in (ANY, step) for known, step in zip(place, path, strict=True))


def in_order(problems: Sequence[Problem], source: Source) -> list[str]:
    """Return one line for each mistake, from the top of the file to its end, then those of the environment."""
    return [sentence(problem, source) for problem in sorted(problems, key=lambda problem: _line(problem, source))]


def _line(problem: Problem, source: Source) -> int:
    kind, _, line = _where(problem.path, source).partition(" ")
    return int(line) if kind == "line" else SIZE_MAX if kind else 0


def _where(path: PathOf, source: Source) -> str:
    return next((source.places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in source.places), "")


def sentence(problem: Problem, source: Source) -> str:
    """Return one line: where it stands, its path, what is wrong; without any secret that was read."""
    path = problem.path
    text = ": ".join(part for part in (_where(path, source), written(path), problem.text) if part)
    for secret in sorted(source.secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text


def written(path: PathOf) -> str:
    """Return a path as `followers.bob.copies[0].size`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


# One value -------------------------------------------------------------------------------------------------------------


def explain(errors: Sequence[Mapping[str, Any]], source: Source, schema: Schema) -> list[Problem]:
    """Return pydantic's findings in a trader's words."""
    return [_problem(error, source, schema) for error in errors if not _follows_from_others(error)]


def _follows_from_others(error: Mapping[str, Any]) -> bool:
    """A list counts as too short where its entries are wrong; they are mistakes of their own already."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _problem(error: Mapping[str, Any], source: Source, schema: Schema) -> Problem:
    path = _path(error["loc"], source.tree)
    context = error.get("ctx", {})
    found = "" if schema.secret_names & set(path) else _found(error["input"])
    match error["type"]:
        case "missing":
            text = f"missing: {schema.description(path)}" if schema.description(path) else "missing"
        case "extra_forbidden":
            text = _unknown(path, schema)
        case "policy" | "settings":
            text = str(error["msg"])
        case "union_tag_not_found":
            path, text = (*path, context["discriminator"].strip("'")), "missing: it says which kind of settings these are"
        case "union_tag_invalid":
            path = (*path, context["discriminator"].strip("'"))
            text = _one_of(context["expected_tags"], context["tag"])
        case "literal_error" | "enum":
            text = _one_of(context["expected"], error["input"] if found else "")
        case kind:
            text = f"expected {_expected(kind, context, str(error['msg']))}{found}"
    return Problem(path, text)


def _path(location: Sequence[str | int], tree: Any) -> PathOf:
    """Return where an error stands in the file: pydantic names the kind of a mapping as a step of its own, which it is not."""
    path: list[str | int] = []
    node: Any = tree
    told = False
    for step in location:
        if step == "[key]":
            continue
        if isinstance(node, dict) and not told and str(step) in (str(node.get("kind")), str(node.get("mode"))):
            told = True
            continue
        told = False
        path.append(step)
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            node = None
    return tuple(path)


_EXPECTED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "decimal_parsing": "a number",
    "decimal_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text, in quotes if it looks like a number",
    "model_type": "settings below it, each on a line of its own",
    "model_attributes_type": "settings below it, each on a line of its own",
    "dict_type": "names below it, each on a line of its own",
    "tuple_type": "a list, each entry after a dash",
    "list_type": "a list, each entry after a dash",
    "path_type": "the path of a file",
}


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in _EXPECTED:
        return _EXPECTED[kind].format_map(context)
    return message[:1].lower() + message[1:]


def _found(value: object) -> str:
    match value:
        case None:
            return ", found nothing"
        case dict():
            return ", found settings below it"
        case list():
            return f", found a list of {len(value)}"
        case bool():
            return f", found {str(value).lower()}"
        case str() if len(value) > 60:
            return f", found a text of {len(value)} characters"
        case str():
            return f", found {str(value)!r}"
        case _:
            return f", found {value}"


def _one_of(choices: str, given: object) -> str:
    names = choices.replace(" or ", ", ").replace("'", "").split(", ")
    found = f", found {str(given)!r}" if isinstance(given, str) and given else _found(given) if given else ""
    expected = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"expected {expected}{found}{_meant(given, names)}"


def _unknown(path: PathOf, schema: Schema) -> str:
    name = str(path[-1])
    meant = _meant(name, schema.siblings(path))
    if not meant and (places := schema.elsewhere(name)):
        meant = f"; it stands under {' or '.join(places[:3])}"
    return f"there is no such setting{meant}"


def _meant(given: object, names: Sequence[str]) -> str:
    close = get_close_matches(str(given).lower(), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# How names fit together ------------------------------------------------------------------------------------------------


def check_references(tree: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong between accounts, masters and followers, as far as they can be told apart at all."""
    accounts = _named(tree, "accounts")
    masters = {name: _text(master, "account") for name, master in _named(tree, "masters").items()}
    followers = {name: _text(follower, "account") for name, follower in _named(tree, "followers").items()}
    problems = _same_login(accounts) + _same_terminal(accounts)
    for section, users in (("masters", masters), ("followers", followers)):
        users_of: dict[str, str] = {}
        for name, account in users.items():
            path = (section, name, "account")
            if account and account not in accounts:
                problems.append(Problem(path, _no_such("account", account, accounts)))
            elif account in users_of:
                noun = section.removesuffix("s")
                why = "two would trade against each other" if noun == "follower" else "whoever copies both would trade twice"
                text = f"account {account} is already that of {noun} {users_of[account]}; {why}"
                problems.append(Problem(path, text))
            elif account:
                users_of[account] = name
    return problems + _signals(tree, accounts, followers) + _relations(tree, masters, followers)


def _signals(tree: Mapping[str, Any], accounts: Mapping[str, Any], followers: Mapping[str, str]) -> list[Problem]:
    problems = []
    folders: dict[str, str] = {}
    served: dict[str, str] = {}
    for name, signals in _named(tree, "signals").items():
        account, folder = _text(signals, "account"), _text(signals, "folder")
        traded = next((follower for follower, own in followers.items() if account and own == account), "")
        if account and account not in accounts:
            problems.append(Problem(("signals", name, "account"), _no_such("account", account, accounts)))
        elif traded:
            text = f"account {account} is that of follower {traded}, which the engine alone trades"
            problems.append(Problem(("signals", name, "account"), text))
        elif account in served:
            text = f"account {account} is already that of signals {served[account]}; one folder per account"
            problems.append(Problem(("signals", name, "account"), text))
        if folder and folder in folders:
            text = f"the folder of {folders[folder]} already; every file in it would be executed twice"
            problems.append(Problem(("signals", name, "folder"), text))
        folders[folder] = served[account] = name
    return problems


def _relations(tree: Mapping[str, Any], masters: Mapping[str, str], followers: Mapping[str, str]) -> list[Problem]:
    problems = []
    sources: dict[str, dict[str, tuple[str, str, int]]] = {}
    for name, follower in _named(tree, "followers").items():
        copies = follower.get("copies")
        seen: set[str] = set()
        for index, copy in enumerate(copies if isinstance(copies, list) else []):
            master = _text(copy, "master")
            path = ("followers", name, "copies", index, "master")
            if not master:
                continue
            if master not in masters:
                problems.append(Problem(path, _no_such("master", master, masters)))
            elif master in seen:
                problems.append(Problem(path, f"{name} copies master {master} already; one relation per master"))
            elif masters[master] and masters[master] == followers[name]:
                problems.append(Problem(path, f"{name} would copy its own account {followers[name]}"))
            elif masters[master] and followers[name]:
                sources.setdefault(followers[name], {}).setdefault(masters[master], (name, master, index))
            seen.add(master)
    return problems + _loops(sources)


def _loops(sources: Mapping[str, dict[str, tuple[str, str, int]]]) -> list[Problem]:
    """Find each circle in which a trade would be copied for ever; `sources` is account -> accounts it copies."""
    problems: list[Problem] = []
    rest = {account: dict(copied) for account, copied in sources.items()}
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1]
            steps = []
            for copied, account in pairwise(circle):
                follower, master, _ = rest[account][copied]
                steps.append(f"{account} copies {copied} (follower {follower}, master {master})")
            follower, _, index = rest[circle[1]].pop(circle[0])
            text = f"a loop, in which one trade would be copied for ever: {'; '.join(steps)}"
            problems.append(Problem(("followers", follower, "copies", index, "master"), text))
        else:
            return problems


def _same_login(accounts: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    problems = []
    names: dict[tuple[str, str], str] = {}
    for name, account in accounts.items():
        if "login" not in account:
            continue
        place = (_text(account, "login"), _text(account, "server"))
        if place in names:
            where = f"login {place[0]} at {place[1]}" if place[1] else f"login {place[0]} at the same server"
            text = f"{where} is already account {names[place]}; one account has one name"
            problems.append(Problem(("accounts", name, "login"), text))
        else:
            names[place] = name
    return problems


def _same_terminal(accounts: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    problems = []
    owners: dict[str, str] = {}
    for name, account in accounts.items():
        path = _text(account, "path").replace("/", "\\").lower()
        if path and path in owners:
            text = f"the terminal of account {owners[path]} already; two accounts in one would log each other out"
            problems.append(Problem(("accounts", name, "path"), text))
        elif _text(account, "kind") == "mt5" and path:
            owners[path] = name
    return problems


def _no_such(noun: str, name: str, names: Mapping[str, Any]) -> str:
    close = get_close_matches(name, names, n=1)
    known = ", ".join(list(names)[:8]) + (" ..." if len(names) > 8 else "")
    rest = f"did you mean {close[0]}?" if close else f"there are {known}" if names else f"there is no {noun} at all"
    return f"there is no {noun} {name!r}; {rest}"


def _named(tree: Mapping[str, Any], section: str) -> dict[str, Mapping[str, Any]]:
    found = tree.get(section)
    if not isinstance(found, Mapping):
        return {}
    return {str(name): value if isinstance(value, Mapping) else {} for name, value in found.items()}


def _text(node: object, key: str) -> str:
    value = node.get(key) if isinstance(node, Mapping) else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
