"""Replay: an account's past through the whole engine gives back the same trades, and shows what other rules would have made."""

import csv
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copier.errors import SettingsError
from copier.exports import read_export
from copier.replay import ONE_TO_ONE, command, read_history, replay, rules_of
from copier.replay_result import ReplaySummary
from copier.settings import load, parse

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "mt5-export"
ONE, RULES = ROOT / "config" / "replay-one-to-one.yaml", ROOT / "config" / "replay-rules.yaml"
D = Decimal
HEADER = "Time,Position,Symbol,Type,Volume,Price,S / L,T / P,Time,Price,Commission,Swap,Profit"
DEALS = "Time,Deal,Symbol,Type,Direction,Volume,Price,Order,Commission,Fee,Swap,Profit,Balance"


@pytest.fixture(scope="module")
def real() -> Path:
    """Three months of a real account."""
    if not DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the real export ({DATA}) is absent")
        pytest.skip("the real export (../shared/data/mt5-export) is absent")
    return DATA


def head(source: Path, target: Path, lines: int) -> Path:
    target.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[: lines + 1]), encoding="utf-8")
    return target


def write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def run(out: Path, *exports: Path, config: str | Path | None = None) -> ReplaySummary:
    history = read_history(exports)
    settings = load(config, {}) if isinstance(config, Path) else parse(config or ONE_TO_ONE)
    return replay(history, rules_of(settings, history), out)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def receipts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def expect_repeated(out: Path, *exports: Path) -> None:
    """Compare every recorded position with the copies, by nothing of the replay's own."""
    recorded = read_export(*exports).positions
    copies = {int(row["masterTicket"]): row for row in rows(out / "follower" / "positions.csv")}
    assert len(copies) == len(recorded) == len(rows(out / "follower" / "positions.csv"))
    for position in recorded:
        copy = copies[position.position]
        assert (copy["symbol"], copy["side"], D(copy["lots"])) == (position.symbol, position.side.value, position.lots)
        assert datetime.fromisoformat(copy["openTime"] + "+00:00").replace(microsecond=0) == position.open_time
        assert datetime.fromisoformat(copy["closeTime"] + "+00:00").replace(microsecond=0) == position.close_time
        assert (D(copy["openPrice"]), D(copy["closePrice"])) == (position.open_price, position.close_price)
        assert (D(copy["profit"]), D(copy["swap"])) == (position.profit, position.swap)
    seen = [(receipt["event"], receipt["code"]) for receipt in receipts(out / "follower" / "receipts.jsonl")]
    assert sorted(set(seen)) == [("close", "master_closed"), ("open", "copied")]
    assert len(seen) == 2 * len(recorded)


# One to one ------------------------------------------------------------------------------------------------------------


def test_one_to_one_repeats_side_lots_times_and_profit_of_every_position(real: Path, tmp_path: Path) -> None:
    export = head(real / "positions.csv", tmp_path / "positions.csv", 200)
    summary = run(tmp_path, export)
    expect_repeated(tmp_path, export)
    assert [(each.positions, each.exact, each.unusual, each.tally.reasons) for each in summary.followers] == [(200, 200, 0, ())]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_three_months_are_repeated_to_the_cent_and_balance_by_balance(real: Path, tmp_path: Path) -> None:
    exports = (real / "positions.csv", real / "deals.csv")
    run(tmp_path, *exports)
    expect_repeated(tmp_path, exports[0])
    export = read_export(exports[1])
    booked = {one.time: one.balance for one in sorted([*export.deals, *export.balances], key=lambda one: one.row)}
    _, *points = rows(tmp_path / "follower" / "equity.csv")  # the first is the start, before anything happened
    told = {datetime.fromisoformat(row["time"] + "+00:00"): D(row["balance"]) for row in points}
    assert told == {time: balance for time, balance in booked.items() if time >= min(told)}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_three_months_from_deals_alone_lose_nothing(real: Path, tmp_path: Path) -> None:
    summary = run(tmp_path, real / "deals.csv")
    assert [(each.positions, each.exact, each.unusual) for each in summary.followers] == [(2648, 2648, 0)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_months_give_the_same_bytes_whatever_the_hash_seed(real: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        code = (
            "import sys; from pathlib import Path; from copier.replay import command; a = [Path(x) for x in sys.argv[1:]]; "
            "command(a[2:], a[0], a[1], progress=False)"
        )
        arguments = [RULES, tmp_path / seed, real / "positions.csv"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=environment, check=True, timeout=150)
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_the_example_is_what_happens_without_a_settings_file() -> None:
    assert load(ONE, {}) == parse(ONE_TO_ONE)


def test_deals_alone_are_rebuilt_and_a_position_closed_in_parts_is_copied_in_parts(tmp_path: Path) -> None:
    export = write(
        tmp_path / "deals.csv",
        DEALS,
        "2025.01.06 10:00:00,1,,balance,,,,,0,0,0,1000,1000",
        "2025.01.06 10:00:05,2,XAUUSD,buy,in,0.3,2600.00,11,0,0,0,0,1000",
        "2025.01.06 11:00:00,3,XAUUSD,sell,out,0.1,2610.00,12,-0.70,0,-0.40,100.00,1098.90",
        "2025.01.06 12:00:00,4,XAUUSD,sell,out,0.2,2605.00,13,-1.40,0,-0.80,100.00,1196.70",
        "2025.01.06 12:00:00,5,XAUUSD,buy,in,0.2,2605.00,14,0,0,0,0,1196.70",
    )
    summary = run(tmp_path, export)
    copies = rows(tmp_path / "follower" / "positions.csv")
    assert [(row["masterTicket"], row["lots"], row["profit"], row["commission"], row["swap"]) for row in copies] == [
        ("11", "0.1", "100.00", "-0.70", "-0.40"),
        ("11", "0.2", "100.00", "-1.40", "-0.80"),
        ("14", "0.2", "0", "0", "0"),
    ]
    assert copies[2]["closeTime"] == ""
    assert rows(tmp_path / "follower" / "equity.csv")[-1]["balance"] == "1196.70"
    assert [(each.exact, each.unusual) for each in summary.followers] == [(2, 0)]
    assert b"1 positions are not closed in the export" in (tmp_path / "report.html").read_bytes()


def test_payments_reach_who_repeats_the_master_and_are_no_result(tmp_path: Path) -> None:
    export = write(
        tmp_path / "deals.csv",
        DEALS,
        "2025.01.06 10:00:00,1,,balance,,,,,0,0,0,1000,1000",
        "2025.01.06 10:00:05,2,XAUUSD,buy,in,0.1,2600.00,11,0,0,0,0,1000",
        "2025.01.06 11:00:00,3,,balance,,,,,0,0,0,-900,100",
        "2025.01.06 12:00:00,4,XAUUSD,sell,out,0.1,2580.00,12,0,0,0,-200.00,-100",
        "2025.01.06 12:00:01,5,,so compensation,,,,,0,0,0,100,0",
    )
    (follower,) = run(tmp_path, export).followers
    money = rows(tmp_path / "follower" / "equity.csv")
    assert [(row["balance"], row["paid"]) for row in money] == [
        ("1000", "0"), ("1000", "0"), ("100", "-900"), ("-100.00", "0"), ("0.00", "100"),
    ]  # fmt: skip
    assert follower.profit == -200


def test_a_symbol_whose_money_moves_with_its_price_is_repeated_to_the_cent(tmp_path: Path) -> None:
    start = datetime(2025, 1, 6, 10, tzinfo=UTC)
    lines = []
    for number in range(30):
        opened, closed = D("150.000") + number * D("0.137"), D("150.400") + number * D("0.101")
        profit = ((closed - opened) * D("0.13") * 100_000 / closed).quantize(D("0.01"))
        at, until = start + timedelta(minutes=number), start + timedelta(minutes=number + 40)
        lines.append(
            f"{at:%Y.%m.%d %H:%M:%S},{number + 1},USDJPY,buy,0.13,{opened},,,{until:%Y.%m.%d %H:%M:%S},{closed},0,0,{profit}"
        )
    export = write(tmp_path / "positions.csv", HEADER, *lines)
    run(tmp_path, export)
    expect_repeated(tmp_path, export)


def test_a_profit_that_no_rule_of_the_symbol_explains_is_still_booked_as_recorded(tmp_path: Path) -> None:
    export = write(
        tmp_path / "positions.csv",
        HEADER,
        "2025.01.06 10:00:00,1,GER40,buy,1,20000.0,,,2025.01.06 11:00:00,20010.0,0,0,10.31",
        "2025.01.06 10:00:00,2,GER40,sell,1,20000.0,,,2025.01.06 12:00:00,19990.0,0,0,10.42",
        "2025.01.06 10:00:00,3,GER40,buy,2,20000.0,,,2025.01.06 13:00:00,19985.0,0,0,-30.77",
    )
    run(tmp_path, export)
    expect_repeated(tmp_path, export)


def test_many_closes_in_one_second_stay_in_it_each_at_its_own_price(tmp_path: Path) -> None:
    lines = [
        f"2025.01.06 10:00:00,{n},XAUUSD,buy,0.1,{2600 + n}.00,,,2025.01.06 10:00:30,{2700 + 2 * n}.00,0,0,{1000 + 10 * n}.00"
        for n in range(1, 41)
    ]
    export = write(tmp_path / "positions.csv", HEADER, *lines)
    run(tmp_path, export)
    expect_repeated(tmp_path, export)


# What cannot be played --------------------------------------------------------------------------------------------------


def test_a_bad_line_is_told_in_summary_and_report_and_the_rest_is_played(tmp_path: Path) -> None:
    export = write(
        tmp_path / "positions.csv",
        HEADER,
        "2025.01.06 10:00:00,1,XAUUSD,buy,0.1,2600.00,2590.00,,2025.01.06 10:00:30,2610.00,0,0,100.00",
        "2025.01.06 10:00:00,2,XAUUSD,hold,0.1,2600.00,,,2025.01.06 10:00:30,2610.00,0,0,100.00",
    )
    summary = run(tmp_path, export)
    (problem,) = summary.problems
    assert (problem.file, problem.line, problem.reason) == ("positions.csv", 3, "expected buy or sell, found 'hold'")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "positions.csv, line 3: expected buy or sell" in page
    assert "1 of 1 positions end with a stop or a target" in page
    assert [each.exact for each in summary.followers] == [1]


def test_what_cannot_be_played_is_told_and_the_rest_is_played(tmp_path: Path) -> None:
    export = write(
        tmp_path / "positions.csv",
        HEADER,
        "2025.01.06 10:00:00,1,XAUUSD,buy,0.1,2600.00,,,2025.01.06 10:00:30,2610.00,0,0,100.00",
        "2025.01.06 10:00:00,1,EURUSD,buy,0.1,1.10000,,,2025.01.06 10:00:40,1.10000,0,0,0.00",
        "2025.01.06 10:00:00,2,XAUUSD,buy,0.1,0,,,2025.01.06 10:00:30,2610.00,0,0,100.00",
    )
    summary = run(tmp_path, export)
    assert [(problem.line, problem.reason) for problem in summary.problems] == [
        (3, "its ticket is that of another position"),
        (4, "a price of 0 cannot be played"),
    ]
    assert [each.exact for each in summary.followers] == [1]


def test_an_export_without_trades_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected closed positions or deals"):
        read_history([write(tmp_path / "positions.csv", HEADER)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("masters:\n", "masters:\n  other: {account: spare}\n"), "a replay plays one master, found 2"),
        (("login: 2,", "login: 2, currency: EUR,"), "accounts.follower.currency: expected USD as of the export, found EUR"),
        (('{kind: paper, login: 2, server: Replay-Follower, margin: "off", balance: 100000}', "{kind: mt5, login: 2, server: X}"),
         "accounts.follower.kind: a replay trades on paper accounts only, found mt5"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_a_replay_are_told(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = ONE_TO_ONE.replace("accounts:\n", "accounts:\n  spare: {kind: paper, login: 9}\n").replace(*change)
    row = "2025.01.06 10:00:00,1,XAUUSD,buy,0.1,2600.00,,,2025.01.06 10:00:30,2610.00,0,0,100.00"
    history = read_history([write(tmp_path / "positions.csv", HEADER, row)])
    with pytest.raises(SettingsError, match=message):
        rules_of(parse(text), history)


# Other rules -----------------------------------------------------------------------------------------------------------

FALLING = (
    "2025.01.06 10:00:00,1,XAUUSD,buy,1,2600.00,,,2025.01.06 13:00:00,2580.00,-7.00,-2.00,-2000.00",
    "2025.01.06 11:00:00,2,XAUUSD,buy,1,2590.00,,,2025.01.06 12:00:00,2575.00,-7.00,0,-1500.00",
    "2025.01.06 14:00:00,3,XAUUSD,buy,1,2580.01,,,2025.01.06 15:00:00,2585.02,-7.00,0,501.00",
    "2025.01.06 23:30:00,4,XAUUSD,buy,1,2580.00,,,2025.01.06 23:40:00,2585.00,-7.00,0,500.00",
)


def other(policy: str, risk: str = "{}", account: str = "balance: 10000") -> str:
    return f"""
accounts:
  master: {{kind: paper, login: 1}}
  f: {{kind: paper, login: 2, leverage: 500, {account}}}
masters: {{m: {{account: master}}}}
followers:
  f:
    account: f
    risk: {risk}
    copies: [{{master: m, {policy}}}]
"""


def test_a_daily_limit_closes_at_the_price_it_is_reached_and_the_zones_next_day_trades_again(tmp_path: Path) -> None:
    limit = "{name: daily, percent: 5, zone: Europe/Prague, action: close_all}"
    account = "balance: 10000, symbols: {overrides: {XAUUSD: {volume_min: 0.01, volume_step: 0.01}}}"
    risk = f"{{losses: [{limit}], worst_case: {{enabled: false}}}}"
    text = other("size: {mode: multiplier, multiplier: 0.5}", risk, account)
    summary = run(tmp_path, write(tmp_path / "positions.csv", HEADER, *FALLING), config=text)
    copies = rows(tmp_path / "f" / "positions.csv")
    # At 11:00 half a lot has lost 500 of 10,000; the copy of the second trade is not opened any more, nor that of the third.
    assert [(row["masterTicket"], row["closeTime"][:19], row["profit"]) for row in copies] == [
        ("1", "2025-01-06 11:00:00", "-500.00"),
        ("4", "2025-01-06 23:40:00", "250.00"),
    ]
    assert copies[1]["commission"] == "-3.50"
    (follower,) = summary.followers
    assert (follower.limits_fired, follower.positions, follower.tally.skipped) == (1, 2, 2)
    assert [(reason.code, reason.count) for reason in follower.tally.reasons] == [("close_only", 2)]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "daily" in page
    assert "has fired" in page


def test_a_reversed_copy_makes_the_opposite_and_an_account_too_small_is_told_so(tmp_path: Path) -> None:
    export = write(tmp_path / "positions.csv", HEADER, *FALLING)
    run(tmp_path / "reversed", export, config=other("copy: {reverse: true}"))
    copies = rows(tmp_path / "reversed" / "f" / "positions.csv")
    assert {row["masterTicket"]: (row["side"], row["profit"]) for row in copies} == {
        "1": ("sell", "2000.00"), "2": ("sell", "1500.00"), "3": ("sell", "-501.00"), "4": ("sell", "-500.00"),
    }  # fmt: skip
    (small,) = run(tmp_path / "small", export, config=other("copy: {reverse: true}", account="balance: 100")).followers
    assert (small.positions, small.profit) == (0, 0)
    assert [(reason.code, reason.count) for reason in small.tally.reasons] == [("margin_insufficient", 4)]


def test_a_follower_pays_its_own_brokers_spread_commission_and_contract(tmp_path: Path) -> None:
    own = "{spread_points: 30, commission_per_lot: 2, contract_size: 10}"
    broker = f"balance: 10000, symbols: {{suffix: .r, overrides: {{XAUUSD: {own}}}}}"
    export = write(tmp_path / "positions.csv", HEADER, *FALLING)
    run(tmp_path, export, config=other("symbols: {suffix: .r}, size: {mode: multiplier, align_contracts: false}", account=broker))
    (first, second) = (row for row in rows(tmp_path / "f" / "positions.csv") if row["masterTicket"] in "14")
    assert (first["symbol"], first["openPrice"], first["closePrice"], first["profit"]) == (
        "XAUUSD.r", "2600.30", "2580.00", "-203.00",
    )  # fmt: skip
    assert (first["commission"], second["commission"]) == ("-4.00", "-4.00")


def test_the_three_example_rule_sets_give_the_same_bytes_twice(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = head(real / "positions.csv", tmp_path / "positions.csv", 60)
    summary = command([export], RULES, tmp_path / "one", progress=False)
    command([export], RULES, tmp_path / "two", progress=False)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert sorted(files(tmp_path / "one")) == sorted(str(path.relative_to(tmp_path / "one")) for path in summary.files)
    assert [each.name for each in summary.followers] == ["careful", "steady", "contrary"]
    shown = capsys.readouterr().out
    assert "steady, not copied: outside_hours" in shown
    assert "careful" in shown
