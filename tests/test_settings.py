import logging
import os
import stat
import traceback
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_settings import BaseSettings

from copier import settings
from copier.errors import SettingsError
from copier.model import MarginMode
from copier.policy import LevelMode, Mode
from copier.settings_check import Schema
from copier.settings_source import DEPTH_MAX, SIZE_MAX, read_text

SECRET = "hunter2-correct-horse"
POSIX = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")

SMALL = """
accounts:
  alice: {kind: paper, login: 1001}
  bob: {kind: paper, login: 1002}
masters:
  gold: {account: alice}
followers:
  bob:
    account: bob
    copies:
      - master: gold
        size: {mode: multiplier, multiplier: 0.29}
"""


def problems(text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings.parse(text, env)
    return caught.value.problems


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


# What is read ----------------------------------------------------------------------------------------------------------


def test_no_settings_at_all_are_a_working_default_in_memory() -> None:
    loaded = settings.parse("")
    assert loaded.redis.get_secret_value() == "memory://"
    assert loaded.ledger.get_secret_value() == "sqlite:///copier.db"
    assert loaded.accounts == {}


def test_a_relation_is_read_with_its_policy() -> None:
    copy = settings.parse(SMALL).followers["bob"].copies[0]
    assert copy.master == "gold"
    assert copy.mode is Mode.LIVE
    assert copy.size.multiplier == Decimal("0.29")  # type: ignore[union-attr]
    assert copy.copying.stops.mode is LevelMode.DISTANCE


def test_settings_are_frozen() -> None:
    loaded = settings.parse(SMALL)
    with pytest.raises(Exception, match="frozen"):
        loaded.masters["gold"].account = "bob"


def test_a_number_keeps_the_digits_it_was_written_with() -> None:
    tree = read_text("{a: 0.1, b: 1e-3, c: 100000000000000000.01, d: -2.50, e: 7}", {}).tree
    assert tree == {
        "a": Decimal("0.1"),
        "b": Decimal("1e-3"),
        "c": Decimal("100000000000000000.01"),
        "d": Decimal("-2.5"),
        "e": 7,
    }
    assert str(tree["d"]) == "-2.50"


def test_text_that_old_yaml_takes_for_something_else_stays_text() -> None:
    tree = read_text("{a: NO, b: on, c: 22:00, d: 0123, e: 2026-01-05, f: 0x1F, g: 1_000, yes: y, NO: n}", {}).tree
    assert tree == {
        "a": "NO", "b": "on", "c": "22:00", "d": "0123", "e": "2026-01-05", "f": "0x1F", "g": "1_000", "yes": "y", "NO": "n",
    }  # fmt: skip


def test_anchors_and_merges_give_several_followers_the_same_rules() -> None:
    text = """
accounts: {m: {kind: paper, login: 1}, a: {kind: paper, login: 2}, b: {kind: paper, login: 3}}
masters: {m: {account: m}}
followers:
  a: {account: a, copies: [&rules {master: m, mode: shadow, copy: {stops: none}}]}
  b: {account: b, copies: [{<<: *rules, mode: close_only}]}
"""
    loaded = settings.parse(text)
    assert loaded.followers["a"].copies[0].mode is Mode.SHADOW
    assert loaded.followers["b"].copies[0].mode is Mode.CLOSE_ONLY
    assert loaded.followers["b"].copies[0].copying.stops.mode is LevelMode.NONE


def test_a_file_that_is_not_there_is_one_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings.load(tmp_path / "none.yaml", {})


# Environment -----------------------------------------------------------------------------------------------------------


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "copier.yaml", SMALL, 0o644)
    env = {
        "MT_COPIER__REDIS": "redis://cache:6379/1",
        "MT_COPIER__ACCOUNTS__ALICE__MARGIN_MODE": "netting",
        "MT_COPIER__SCHEDULE__RECONCILE_S": "7.5",
        "MT_COPIER__FOLLOWERS__BOB__GROUPS": "[funded, eu]",
        "UNRELATED": "x",
    }
    loaded = settings.load(path, env)
    assert loaded.redis.get_secret_value() == "redis://cache:6379/1"
    assert loaded.accounts["alice"].margin_mode is MarginMode.NETTING
    assert loaded.schedule.reconcile_s == Decimal("7.5")
    assert loaded.followers["bob"].groups == ("funded", "eu")


@pytest.mark.parametrize("name", ["MT_COPIER_LEDGER", "mt_copier_redis", "MT_COPIER_METRICS__PORT"])
def test_a_variable_that_was_meant_as_a_setting_and_misses_an_underscore_is_a_mistake(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} says nothing here; the setting is MT_COPIER__"):
        settings.parse(SMALL, {name: "9464"})


def test_a_variable_of_ones_own_may_begin_alike() -> None:
    env = {"MT_COPIER_LEDGERS": "x", "MT_COPIER_VERSION": "1", "MT_COPIER": "x", "MT_COPIER_STREAM": "a secret of some length"}
    assert settings.parse(SMALL + "\nstream: {secret: {env: MT_COPIER_STREAM}}\n", env).stream.secret


def test_a_variable_reaches_a_name_that_a_shell_cannot_write() -> None:
    text = "accounts: {Alice-Gold.1: {kind: paper, login: 1}}"
    loaded = settings.parse(text, {"MT_COPIER__ACCOUNTS__ALICE_GOLD_1__LEVERAGE": "500"})
    assert loaded.accounts["Alice-Gold.1"].leverage == 500


def test_a_misspelt_variable_is_a_mistake_and_not_silence() -> None:
    assert problems("", {"MT_COPIER__REDSI": "redis://x"}) == [
        "MT_COPIER__REDSI: redsi: there is no such setting; did you mean redis?"
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MT_COPIER__FOLLOWERS__BOB__COPIES__0__MODE", "a list, which is replaced as a whole"),
        ("MT_COPIER__MASTERS__GOLD__ACCOUNT__X", "a single value"),
        ("MT_COPIER__MASTERS____ACCOUNT", "an empty name between its __"),
    ],
)
def test_a_variable_that_leads_nowhere_is_a_mistake(name: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(SMALL, {name: "live"}))


def test_a_variable_that_could_mean_two_accounts_is_a_mistake() -> None:
    text = "accounts: {a-b: {kind: paper, login: 1}, A_B: {kind: paper, login: 2}}"
    assert problems(text, {"MT_COPIER__ACCOUNTS__A_B__LEVERAGE": "500"}) == [
        "the environment variable MT_COPIER__ACCOUNTS__A_B__LEVERAGE may mean a-b or A_B"
    ]


# Mistakes --------------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("accounts: {a: {kind: paper, login: 1, balance: -5}}", "line 1: accounts.a.balance: expected more than 0, found -5"),
    ("accounts: {a: {kind: papr, login: 1}}", "found 'papr'; did you mean paper?"),
    ("accounts: {a: {kind: paper}}", "line 1: accounts.a.login: missing: The account's number."),
    ("accounts: {a: {kind: paper, login: x1}}", "line 1: accounts.a.login: expected the account's number, found 'x1'"),
    (
        "accounts: {a: {kind: paper, login: 1, leverage: 1.5}}",
        "line 1: accounts.a.leverage: expected a whole number, found 1.5",
    ),
    (
        "accounts: {a: {kind: paper, login: 1, symbls: 3}}",
        "line 1: accounts.a.symbls: there is no such setting; did you mean symbols?",
    ),
    ("accounts: {a: {kind: paper, login: 1, currency: usd}}", "three capital letters, such as USD, found 'usd'"),
    ("accounts: {a/b: {kind: paper, login: 1}}", "accounts.a/b: expected a name of letters, digits"),
    ("accounts: [a]", "accounts: expected names below it, each on a line of its own, found a list of 1"),
    ("redis: http://x", "line 1: redis: expected a URL that begins with memory:// or redis:// or rediss:// or unix://"),
    (SMALL + "        spread_points_max: 3\n", "it stands under followers.*.copies.*.protection.spread_points_max"),
    (SMALL.replace("multiplier: 0.29", "lots: 1"), "copies[0].size.lots: there is no such setting"),
    (SMALL.replace("mode: multiplier", "mode: fixd"), "found 'fixd'; did you mean fixed?"),
    (SMALL.replace("{mode: multiplier, multiplier: 0.29}", "{multiplier: 2}"), "copies[0].size.mode: missing"),
    (SMALL.replace("0.29", "0"), "line 12: followers.bob.copies[0].size.multiplier: expected more than 0, found 0"),
    (SMALL.replace("account: alice", "account: alise"), "masters.gold.account: there is no account 'alise'; did you mean alice?"),
    (SMALL.replace("master: gold", "master: silver"), "there is no master 'silver'; there are gold"),
    (SMALL.replace("    account: bob", "    account: alice"), "bob would copy its own account alice"),
    (SMALL + "      - {master: gold}\n", "copies[1].master: bob copies master gold already; one relation per master"),
    (SMALL + "  eve: {account: bob, copies: [{master: gold}]}\n", "account bob is already that of follower bob; two would trade"),
    (SMALL + "  eve: {account: bob, copies: []}\n", "followers.eve.copies: expected at least 1 of them, found a list of 0"),
    (SMALL.replace("login: 1002", "login: 1001"), "login 1001 at the same server is already account alice"),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES, ids=[expected[-40:] for _, expected in MISTAKES])
def test_a_mistake_is_told_with_its_line_path_value_and_what_was_expected(text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(text)), problems(text)


def test_two_masters_on_one_account_are_refused_because_whoever_copies_both_would_trade_twice() -> None:
    text = SMALL.replace("  gold: {account: alice}", "  gold: {account: alice}\n  silver: {account: alice}")
    assert problems(text) == [
        "line 7: masters.silver.account: account alice is already that of master gold; whoever copies both would trade twice"
    ]


def test_all_mistakes_are_told_at_once_from_top_to_bottom() -> None:
    text = SMALL.replace("login: 1001", "leverage: 0").replace("0.29", "x").replace("account: alice", "account: nobody")
    paths = [problem.split(": ")[1] for problem in problems(text)]
    assert paths == [
        "accounts.alice.login",
        "accounts.alice.leverage",
        "masters.gold.account",
        "followers.bob.copies[0].size.multiplier",
    ]


def test_a_list_whose_entries_are_wrong_is_not_called_too_short_as_well() -> None:
    assert len(problems(SMALL.replace("0.29", "x"))) == 1


def test_a_loop_is_spelled_out() -> None:
    text = """
accounts: {a: {kind: paper, login: 1}, b: {kind: paper, login: 2}, c: {kind: paper, login: 3}}
masters: {a: {account: a}, b: {account: b}, c: {account: c}}
followers:
  to-b: {account: b, copies: [{master: a}]}
  to-c: {account: c, copies: [{master: b}]}
  to-a: {account: a, copies: [{master: c}]}
"""
    (problem,) = problems(text)
    assert "a loop, in which one trade would be copied for ever" in problem
    for step in ("a copies c (follower to-a, master c)", "b copies a (follower to-b, master a)", "c copies b"):
        assert step in problem


@given(edges=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=15))
def test_settings_are_refused_exactly_when_a_trade_could_come_back_to_its_account(edges: set[tuple[int, int]]) -> None:
    reach = set(edges)
    while more := {(a, d) for a, b in reach for c, d in reach if b == c} - reach:
        reach |= more
    lines = ["accounts:", *(f"  a{n}: {{kind: paper, login: {n}}}" for n in range(6))]
    lines += ["masters:", *(f"  m{n}: {{account: a{n}}}" for n in range(6)), "followers:"]
    followers = {follower for _, follower in edges}
    for follower in sorted(followers):
        masters = ", ".join(f"{{master: m{master}}}" for master, one in sorted(edges) if one == follower)
        lines.append(f"  f{follower}: {{account: a{follower}, copies: [{masters}]}}")
    text = "\n".join(lines if followers else lines[:-1])
    if any(a == b for a, b in reach):
        assert all("a loop" in problem or "its own account" in problem for problem in problems(text))
    else:
        assert len(settings.parse(text).followers) == len(followers)


# Hostile and broken files ----------------------------------------------------------------------------------------------


def test_a_key_that_stands_twice_is_refused_with_both_lines() -> None:
    assert problems(SMALL + "masters: {}\n") == ["line 5: masters: stands twice, on lines 5 and 13"]


def test_an_alias_bomb_is_refused_quickly() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert "once the aliases are written out" in problems("\n".join(rows))[0]


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert "an alias inside its own anchor" in problems("accounts: &a {b: *a}")[0]


def test_deep_nesting_is_refused() -> None:
    assert "nested deeper" in problems("a: " + "[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))[0]


def test_absurdly_deep_nesting_is_refused_too() -> None:
    assert problems("a: " + "[" * 100_000)


@pytest.mark.parametrize("number", ["1e999999999", '"1e999999999"', "1e-999999999", "9" * 90, "0e99999999999999999999"])
def test_a_number_that_no_arithmetic_survives_is_refused(number: str) -> None:
    assert any("more digits than any account needs" in problem for problem in problems(SMALL.replace("0.29", number)))
    env = {"MT_COPIER__SCHEDULE__RECONCILE_S": number.strip('"')}
    assert any("more digits than any account needs" in problem for problem in problems("", env))


def test_a_huge_file_is_refused_unread() -> None:
    assert "larger than 4 MiB" in problems("#" + "x" * SIZE_MAX)[0]


@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.system ['true']", "a: !mine x", "redis: !!python/name:os.system ''", "a: !!binary aGk="],
)
def test_a_file_cannot_name_a_python_object(text: str) -> None:
    assert any("a tag (!name) is not allowed" in problem for problem in problems(text))


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "a: b: c", "- 1\n- 2", "just text", "a: *nothing", "--- 1\n--- 2", "? [a]\n: 1", "\0"]
)
def test_what_is_not_a_mapping_is_a_mistake_and_no_traceback(text: str) -> None:
    assert problems(text)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_settings_or_a_list_of_mistakes(text: str) -> None:
    try:
        settings.parse(text)
    except SettingsError as error:
        assert error.problems


EXAMPLE = (Path(__file__).parent.parent / "config" / "copier.yaml").read_text(encoding="utf-8")
SCRAPS = st.sampled_from(
    ["*a", "&a ", "!x ", "{}", "[", "]", "~", "- ", "? ", ": ", "<<: ", "null", "-1", "1e9", "\t", "\n", "'", '"', "#"]
)


@given(edits=st.lists(st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 20), SCRAPS), min_size=1, max_size=5))
def test_a_damaged_file_is_settings_or_a_list_of_mistakes(edits: list[tuple[int, int, str]]) -> None:
    text = EXAMPLE
    for at, cut, scrap in edits:
        text = text[:at] + scrap + text[at + cut :]
    try:
        settings.parse(text)
    except SettingsError as error:
        assert error.problems


# Secrets ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, str]:
    write(tmp_path / "secret", SECRET + "\n")
    return {"COPIER_SECRET": SECRET}


@pytest.mark.parametrize("reference", ["{env: COPIER_SECRET}", "{file: secret}"])
def test_a_secret_is_read_from_where_it_is_kept(tmp_path: Path, planted: dict[str, str], reference: str) -> None:
    path = write(tmp_path / "copier.yaml", f"stream: {{secret: {reference}}}", 0o644)
    secret = settings.load(path, planted).stream.secret
    assert secret is not None
    assert secret.get_secret_value() == SECRET


def test_a_secret_is_read_from_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")

    class Ring(keyring.backend.KeyringBackend):  # type: ignore[misc,name-defined]
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return {("copier", "hmac"): SECRET}.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            raise NotImplementedError

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        secret = settings.parse("stream: {secret: {keyring: copier/hmac}}").stream.secret
        assert "no entry for service copier, name other" in problems("stream: {secret: {keyring: copier/other}}")[0]
    finally:
        keyring.set_keyring(before)
    assert secret is not None
    assert secret.get_secret_value() == SECRET


@pytest.mark.parametrize("value", ["[abc]", "{abc", "123456", "null", "true", "*x"])
def test_a_secret_from_the_environment_is_taken_as_it_is(value: str) -> None:
    secret = settings.parse("", {"MT_COPIER__STREAM__SECRET": value}).stream.secret
    assert secret is not None
    assert secret.get_secret_value() == value


@POSIX
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660])
def test_a_secrets_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "secret", SECRET, mode)
    path = write(tmp_path / "copier.yaml", "stream: {secret: {file: secret}}")
    with pytest.raises(SettingsError, match=f"has mode {mode:04o}, so others may read it; chmod 600 it"):
        settings.load(path, {})


@POSIX
def test_a_plain_secret_is_refused_in_a_file_that_others_may_read(tmp_path: Path) -> None:
    path = write(tmp_path / "copier.yaml", f"stream: {{secret: {SECRET}}}", 0o644)
    with pytest.raises(SettingsError, match="a secret in a file that others may read"):
        settings.load(path, {})
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert settings.load(path, {}).stream.secret is not None


@POSIX
def test_a_url_without_a_password_may_stand_in_any_file_and_one_with_a_password_may_not(tmp_path: Path) -> None:
    path = write(tmp_path / "copier.yaml", "redis: redis://copier@cache:6379/0", 0o644)
    assert settings.load(path, {}).redis.get_secret_value() == "redis://copier@cache:6379/0"
    write(path, f"redis: redis://copier:{SECRET}@cache:6379/0", 0o644)
    with pytest.raises(SettingsError, match="a secret in a file that others may read"):
        settings.load(path, {})


@pytest.mark.parametrize(
    "text",
    [
        "stream: {secret: {env: NOT_SET}}", "stream: {secret: {file: none}}", "stream: {secret: {env: A, file: b}}",
        "stream: {secret: {}}", "stream: {secret: [a]}", "stream: {secret: 123456}", "stream: {secret: {keyring: x}}",
        "stream: {secret: {file: .}}",
    ],
)  # fmt: skip
def test_a_secret_that_cannot_be_had_is_a_mistake(text: str) -> None:
    assert len(problems(text)) == 1


LEAKS = [
    f"stream: {{secret: {SECRET}}}\nstream: {{}}",
    f"stream: {{secrt: {SECRET}}}",
    f"stream: {{secret: {SECRET}, entries_max: {SECRET}-x}}",
    f"stream: {{secret: [{SECRET}]}}",
    f"stream: {{secret: {{file: x, password: {SECRET}}}}}",
    f"stream: {{secret: *{SECRET}}}",
    f"stream: {{secret: !{SECRET} x}}",
    f"stream: {{secret: &{SECRET} }}}}",
    f"stream: {{secret: %{SECRET}}}",
    f"stream: {{secret: @{SECRET}}}",
    f'stream: {{secret: "{SECRET}',
    f"stream:\n  secret: {SECRET}: x: y",
    f"stream:\n\tsecret: {SECRET}",
    f"redis: redis://u:{SECRET}@[bad",
    f"redis: http://u:{SECRET}@host",
    f"ledger: postgresql://u:{SECRET}@host/db\nlog: {{level: loud}}",
    f"accounts: {{a: {{kind: paper, login: 1, password: {SECRET}}}}}",
]


@pytest.mark.parametrize("text", LEAKS)
def test_no_mistake_shows_a_secret(text: str, tmp_path: Path) -> None:
    for mode in (0o600, 0o644):
        path = write(tmp_path / "copier.yaml", text, mode)
        try:
            settings.load(path, {})
            pytest.fail("expected a mistake")
        except SettingsError as error:
            shown = traceback.format_exc() + repr(error) + str(error.problems) + repr(error.__cause__) + repr(error.__context__)
        assert SECRET not in shown


def test_nothing_that_shows_settings_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    env = {"COPIER_SECRET": SECRET, "MT_COPIER__REDIS": f"rediss://worker:{SECRET}@cache:6380/0?password={SECRET}"}
    loaded = settings.parse(
        f"ledger: postgresql://copier:{SECRET}@db/copier?password={SECRET}\nstream: {{secret: {{env: COPIER_SECRET}}}}", env
    )
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("%s %r", loaded, loaded.redis)
    shown: list[Any] = [
        repr(loaded), str(loaded), settings.redacted(loaded), loaded.model_dump(), loaded.model_dump_json(),
        settings.json_schema(), caplog.text, f"{loaded.redis} {loaded.ledger!r} {loaded.stream.secret}",
    ]  # fmt: skip
    assert SECRET not in str(shown)
    assert settings.redacted(loaded)["redis"] == "rediss://worker:***@cache:6380/0"
    assert settings.redacted(loaded)["ledger"] == "postgresql://copier:***@db/copier"
    assert loaded.redis.get_secret_value().count(SECRET) == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://worker@cache/0", "redis://worker@cache/0"),
        (f"redis://:{SECRET}@cache/0", "redis://:***@cache/0"),
        (f"unix://:{SECRET}@/run/redis.sock?db=1", "unix://:***@/run/redis.sock"),
        (f"redis://a:{SECRET}%2F@cache", "redis://a:***@cache"),
        (f"redis://a:@{SECRET}@cache", "redis://a:***@cache"),
        ("sqlite:////var/lib/copier/copier.db", "sqlite:////var/lib/copier/copier.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(settings.Url(url)) == shown


@given(st.text(st.characters(codec="ascii", exclude_characters="*"), min_size=1, max_size=12))
def test_no_password_however_written_is_shown_with_its_url(password: str) -> None:
    marked = f"\N{SNOWMAN}{password}\N{SNOWMAN}"
    assert "\N{SNOWMAN}" not in str(settings.Url(f"redis://user:{marked}@host/0"))


def test_what_was_read_shows_no_secret_in_a_traceback_with_its_variables() -> None:
    assert SECRET not in repr(read_text(f"stream: {{secret: {SECRET}}}", {"COPIER_SECRET": SECRET}))


def test_the_schema_for_editors_describes_every_setting() -> None:
    schema = settings.json_schema()
    places = Schema(schema).places
    assert len(places) > 150
    assert [".".join(place) for place, node in places.items() if not node.get("description")] == []


@pytest.mark.parametrize("name", ["stops", "targets", "existing"])
def test_the_schema_for_editors_accepts_a_mode_alone_where_the_settings_do(name: str) -> None:
    schema = Schema(settings.json_schema())
    place = schema.places["followers", "*", "copies", "*", "copy", name]
    choices = [schema.resolve(choice) for choice in place["anyOf"]]
    assert {choice["type"] for choice in choices} == {"object", "string"}


def test_settings_come_through_the_sources_of_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(settings.Settings, BaseSettings)
    monkeypatch.setenv("REDIS", "redis://a-variable-without-our-prefix")
    assert settings.Settings().redis.get_secret_value() == "memory://"
    assert settings.parse("").redis.get_secret_value() == "memory://"
    assert settings.Settings(redis=settings.Url("redis://given")).redis.get_secret_value() == "redis://given"


def test_the_settings_librarys_own_debugging_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        settings.parse(f"stream: {{secret: {SECRET}}}", {"MT_COPIER__REDIS": f"redis://u:{SECRET}@host"})
    assert "WrittenSettings" in caplog.text
    assert SECRET not in caplog.text


def test_the_settings_of_one_file_know_nothing_of_the_file_read_before(tmp_path: Path) -> None:
    settings.load(write(tmp_path / "copier.yaml", f"stream: {{secret: {SECRET}}}"), {})
    assert settings.parse("").stream.secret is None
    assert settings.Settings().stream.secret is None
