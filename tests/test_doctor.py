"""What the doctor says about accounts that are well, ill, or not there, and that it trades nothing unasked."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from copier.cli import app
from copier.clock import LoopClock, run_virtual
from copier.database import Database
from copier.doctor import Diagnosis, Weight, command, diagnose, told
from copier.doctor_advice import advice_for, blocker_advice
from copier.errors import Fenced, Reason, SettingsError
from copier.gateways import mt5_session
from copier.gateways import paper_faults as fault
from copier.gateways.paper import PaperGateway
from copier.gateways.paper_account import PaperAccount
from copier.gateways.paper_faults import Faults, Operation
from copier.gateways.paper_server import PaperServer
from copier.locks import RoleLock
from copier.model import DealType, MarginMode, TradeMode
from copier.settings import Settings, parse

MONDAY_NOON_MS = 1_704_715_200_000
YAML = """
ledger: sqlite:///{ledger}
accounts:
  provider: {{kind: paper, login: 1, server: A}}
  mine: {{kind: paper, login: 2, server: B}}
masters: {{alpha: {{account: provider}}}}
followers:
  mine: {{account: mine, copies: [{{master: alpha{relation}}}]}}
"""


class Ward:
    """Two brokers, a master with an open position, a follower, and the gateways to both."""

    def __init__(self, relation: str = "", ledger: str = "/nowhere/copier.db", **mine: Any) -> None:
        self.clock = LoopClock(MONDAY_NOON_MS)
        self.settings: Settings = parse(YAML.format(relation=relation, ledger=ledger))
        self.faults = Faults()
        self.theirs = PaperServer("A", clock=self.clock)
        self.ours = PaperServer("B", clock=self.clock)
        self.master = self.theirs.add_account(PaperAccount(1))
        self.follower = self.ours.add_account(PaperAccount(2, **mine))
        for server in (self.theirs, self.ours):
            server.set_quote("EURUSD", "1.10000", "1.10010")
            server.set_quote("XAUUSD", "2650.50", "2650.80")
        self.theirs.buy(1, "EURUSD", "0.10")
        self.gateways = {
            "provider": PaperGateway(self.theirs, 1, clock=self.clock),
            "mine": PaperGateway(self.ours, 2, clock=self.clock, faults=self.faults),
        }

    async def diagnose(self, **trade: str) -> Diagnosis:
        return await diagnose(self.settings, self.gateways, self.clock, **trade)


def examined(make: Callable[[], Ward], **trade: str) -> tuple[Ward, Diagnosis]:
    async def run() -> tuple[Ward, Diagnosis]:
        ward = make()
        return ward, await ward.diagnose(**trade)

    return run_virtual(run())


def codes(diagnosis: Diagnosis, weight: Weight | None = None) -> set[str]:
    findings = [finding for report in diagnosis.accounts for finding in report.findings]
    findings += [finding for relation in diagnosis.relations for finding in relation.findings]
    return {finding.code for finding in findings if weight in (None, finding.weight)}


def words(diagnosis: Diagnosis) -> str:
    return "\n".join(told(diagnosis))


def test_two_healthy_accounts_need_no_mending_and_are_not_traded() -> None:
    ward, diagnosis = examined(Ward)
    assert diagnosis.good
    assert [report.roles for report in diagnosis.accounts] == [("master alpha",), ("follower mine",)]
    assert diagnosis.relations[0].symbols == {"EURUSD": "EURUSD"}
    assert [deal.type for deal in ward.follower.deals] == [DealType.BALANCE]
    assert "Nothing has to be mended." in words(diagnosis)


def test_an_account_that_cannot_be_reached_must_be_mended_and_the_others_are_still_looked_at() -> None:
    def ward() -> Ward:
        ward = Ward()
        del ward.ours.accounts[2]
        return ward

    _, diagnosis = examined(ward)
    assert not diagnosis.good
    assert codes(diagnosis, Weight.MEND) == {"unreachable"}
    assert diagnosis.accounts[0].account is not None
    assert "mine (paper; follower mine): not reached" in words(diagnosis)


def test_an_investor_login_is_wrong_for_a_follower_and_right_for_a_master() -> None:
    _, diagnosis = examined(lambda: Ward(investor=True))
    assert codes(diagnosis, Weight.MEND) == {"trading_blocked"}

    def watching() -> Ward:
        ward = Ward()
        ward.master.investor = True
        return ward

    assert examined(watching)[1].good


def test_a_terminal_without_its_server_must_be_mended() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.faults.always(Operation.ACCOUNT, fault.disconnected())
        return ward

    assert "no_server" in codes(examined(ward)[1], Weight.MEND)


def test_a_symbol_the_master_holds_and_the_follower_lacks_must_be_mapped() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.theirs.buy(1, "XAUUSD", "0.10")
        del ward.ours.symbols["XAUUSD"]
        return ward

    _, diagnosis = examined(ward)
    assert codes(diagnosis, Weight.MEND) == {"symbol_unmapped"}
    assert "set `symbols.map: {XAUUSD: ...}`" in words(diagnosis)


def test_symbols_without_a_counterpart_are_named_though_nothing_is_open_in_them() -> None:
    def ward() -> Ward:
        ward = Ward()
        del ward.ours.symbols["BTCUSD"]
        return ward

    _, diagnosis = examined(ward)
    assert diagnosis.good
    assert "of the master's 6 symbols 1 have no counterpart here: BTCUSD" in words(diagnosis)


def test_a_denied_symbol_is_no_mistake() -> None:
    def ward() -> Ward:
        ward = Ward(relation=", symbols: {deny: [XAUUSD]}")
        ward.theirs.buy(1, "XAUUSD", "0.10")
        del ward.ours.symbols["XAUUSD"]
        return ward

    assert examined(ward)[1].good


def test_a_mapped_symbol_the_broker_does_not_offer_is_found_without_an_open_position() -> None:
    _, diagnosis = examined(lambda: Ward(relation=", symbols: {map: {GOLD: XAU.x}}"))
    assert "symbol_unmapped" in codes(diagnosis, Weight.MEND)


def test_a_symbol_that_may_only_be_closed_at_the_follower_must_be_mended() -> None:
    def ward() -> Ward:
        ward = Ward(relation=", symbols: {map: {EURUSD: EURUSD}}")
        ward.ours.change_symbol("EURUSD", trade_mode=TradeMode.CLOSE_ONLY)
        return ward

    assert "symbol_restricted" in codes(examined(ward)[1], Weight.MEND)


def test_a_netting_follower_of_a_hedging_master_is_told_what_gets_lost() -> None:
    _, diagnosis = examined(lambda: Ward(margin_mode=MarginMode.NETTING))
    assert "hedging_to_netting" in codes(diagnosis, Weight.HINT)
    assert diagnosis.good


def test_a_multiplier_that_makes_volumes_too_small_is_told_in_numbers() -> None:
    _, diagnosis = examined(lambda: Ward(relation=", size: {mode: multiplier, multiplier: 0.1}"))
    (finding,) = [finding for finding in diagnosis.relations[0].findings if finding.code == "below_minimum"]
    assert "0.01 lots of EURUSD x 0.1 are 0.001, the least of EURUSD here is 0.01" in finding.message
    assert "below 0.1 lots" in finding.message


def test_a_multiplier_off_the_followers_step_is_told() -> None:
    _, diagnosis = examined(lambda: Ward(relation=", size: {mode: multiplier, multiplier: 1.5}"))
    assert "off_step" in codes(diagnosis, Weight.HINT)


def test_a_contract_of_another_size_is_told() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.ours.change_symbol("EURUSD", contract_size="10000")
        return ward

    assert "contract_size" in codes(examined(ward)[1], Weight.HINT)


# the trade test


def test_the_trade_test_opens_modifies_and_closes_the_least_volume_and_leaves_nothing() -> None:
    ward, diagnosis = examined(Ward, symbol="EURUSD", account="mine")
    trade = diagnosis.trade
    assert trade is not None
    assert trade.good
    assert diagnosis.good
    assert (trade.lots, trade.tag_survived, trade.tag_in_deals) == (Decimal("0.01"), True, True)
    assert None not in (trade.open_ms, trade.visible_ms, trade.modify_ms, trade.close_ms, trade.gone_ms)
    assert not ward.follower.positions
    assert [deal.lots for deal in ward.follower.deals] == [0, Decimal("0.01"), Decimal("0.01")]
    assert "`tags_survive: true` may be set" in words(diagnosis)


def test_the_trade_test_refuses_an_account_that_is_no_demo() -> None:
    ward, diagnosis = examined(lambda: Ward(demo=False), symbol="EURUSD", account="mine")
    assert diagnosis.trade is not None
    assert "is no demo account" in diagnosis.trade.error
    assert not diagnosis.good
    assert [deal.type for deal in ward.follower.deals] == [DealType.BALANCE]


def test_the_trade_test_keeps_out_of_a_symbol_in_which_something_is_open() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.ours.buy(2, "EURUSD", "0.10")
        return ward

    ward_seen, diagnosis = examined(ward, symbol="EURUSD", account="mine")
    assert diagnosis.trade is not None
    assert "something is open in EURUSD already" in diagnosis.trade.error
    assert len(ward_seen.follower.positions) == 1


def test_the_trade_test_tells_that_a_broker_drops_our_tag() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.faults.next(Operation.EXECUTE, fault.comment_stripped())
        return ward

    _, diagnosis = examined(ward, symbol="EURUSD", account="mine")
    assert diagnosis.trade is not None
    assert diagnosis.trade.tag_survived is False
    assert "our tag was lost" in words(diagnosis)


def test_what_an_order_of_unknown_outcome_opened_is_found_by_its_tag_and_closed() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.faults.next(Operation.EXECUTE, fault.answer_lost())
        return ward

    ward_seen, diagnosis = examined(ward, symbol="EURUSD", account="mine")
    assert not diagnosis.good
    assert not ward_seen.follower.positions


def test_a_stop_that_is_refused_still_lets_the_position_be_closed() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.faults.next(Operation.MODIFY, fault.refuse(Reason.INVALID_STOPS))
        return ward

    ward_seen, diagnosis = examined(ward, symbol="EURUSD", account="mine")
    assert diagnosis.trade is not None
    assert diagnosis.trade.error
    assert diagnosis.trade.close_ms is not None
    assert not ward_seen.follower.positions


def test_a_position_that_cannot_be_closed_is_named() -> None:
    def ward() -> Ward:
        ward = Ward()
        ward.faults.always(Operation.CLOSE, fault.refuse(Reason.MARKET_CLOSED))
        return ward

    ward_seen, diagnosis = examined(ward, symbol="EURUSD", account="mine")
    assert diagnosis.trade is not None
    assert diagnosis.trade.left_open in ward_seen.follower.positions
    assert "close it by hand" in words(diagnosis)


# advice


@pytest.mark.parametrize(
    ("blocker", "mend"),
    [
        (mt5_session.ALGO_TRADING_OFF, "Ctrl+E"),
        (mt5_session.API_DISABLED, "via external Python API"),
        (mt5_session.INVESTOR, "trading password"),
        (mt5_session.EXPERTS_FORBIDDEN, "ask the broker"),
        ("DLL calls are not allowed", "Allow DLL imports"),
        ("something nobody has seen", "Journal"),
    ],
)
def test_every_blocker_has_its_click(blocker: str, mend: str) -> None:
    assert mend in blocker_advice(blocker)


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("the terminal is logged in to 7@B, expected 2@B", "File, Login to Trade Account"),
        ("Login refused: mend login, password or server (-6: x)", "the server's name is the one"),
        ("the MetaTrader5 package cannot be imported by python", "pip install MetaTrader5"),
        ("the manager 1 cannot connect to a:1: wrong manager login or password (1001: x)", "correct `manager`"),
        ("no words anyone knows", "correct the account's settings"),
    ],
)
def test_every_way_not_to_be_reached_has_its_mending(message: str, mend: str) -> None:
    assert mend in advice_for(message, parse(YAML.format(relation="", ledger="x")).accounts["mine"])


# the command


async def test_the_command_reads_a_file_and_its_answer_is_json(tmp_path: Path) -> None:
    path = tmp_path / "copier.yaml"
    path.write_text(YAML.format(relation="", ledger=tmp_path / "copier.db"), encoding="utf-8")
    diagnosis = await command(path, symbol="EURUSD", account="mine")
    assert diagnosis.trade is not None
    assert diagnosis.trade.good
    assert msgspec.json.decode(msgspec.json.encode(diagnosis))["trade"]["tagSurvived"] is True


@pytest.mark.parametrize(("symbol", "account"), [("EURUSD", ""), ("", "mine"), ("EURUSD", "nobody")])
async def test_a_trade_test_needs_a_symbol_and_a_known_account(tmp_path: Path, symbol: str, account: str) -> None:
    path = tmp_path / "copier.yaml"
    path.write_text(YAML.format(relation="", ledger=tmp_path / "copier.db"), encoding="utf-8")
    with pytest.raises(SettingsError):
        await command(path, symbol=symbol, account=account)


async def test_the_trade_test_keeps_out_while_a_worker_of_this_machine_is_at_work(tmp_path: Path) -> None:
    path, ledger = tmp_path / "copier.yaml", tmp_path / "copier.db"
    path.write_text(YAML.format(relation="", ledger=ledger), encoding="utf-8")
    database = Database(f"sqlite:///{ledger}")
    await database.open()
    await database.close()
    worker = RoleLock(ledger, "worker:main")
    worker.take()
    with pytest.raises(Fenced, match="worker:main"):
        await command(path, symbol="EURUSD", account="mine")
    worker.release()
    trade = (await command(path, symbol="EURUSD", account="mine")).trade
    assert trade is not None
    assert trade.good


def test_the_command_line_exits_with_1_where_something_must_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "copier.yaml"
    path.write_text(YAML.format(relation="", ledger=tmp_path / "copier.db"), encoding="utf-8")
    well = CliRunner().invoke(app, ["doctor", str(path), "--json"])
    assert well.exit_code == 0
    assert msgspec.json.decode(well.stdout)["good"] is True
    path.write_text(YAML.format(relation=", symbols: {map: {GOLD: XAU.x}}", ledger=tmp_path / "copier.db"), encoding="utf-8")
    ill = CliRunner().invoke(app, ["doctor", str(path)])
    assert ill.exit_code == 1
    assert "XAU.x" in ill.stdout
