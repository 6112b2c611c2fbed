"""The Expert Advisors, broken on purpose: each break must compile, and a test must say so. `python -m tests.mql.mutants`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MQL = ROOT / "mql"
DOCS = ROOT / "docs" / "gateways" / "mutants.md"
EXPERTS = "tests/gateways/test_bridge_experts.py"
PIECES = "tests/gateways/test_bridge_mql.py"
PROMISES = "tests/gateways/test_conformance.py"
CARRIER = "tests/dll/test_carrier.py"
FROZEN = "tests/gateways/test_bridge_frozen_engine.py"
TIMEOUT_S = 400


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One break of the sources, and where it is looked for."""

    name: str
    file: str
    before: str
    after: str
    tests: str
    """The file of tests."""
    among: str
    """Which of its tests, as pytest's -k has it."""

    def apply(self, folder: Path) -> None:
        """Break a copy of the sources; raise `LookupError` where what is to be broken is not there exactly once."""
        path = folder / self.file
        text = path.read_text(encoding="ascii")
        if text.count(self.before) != 1:
            raise LookupError(f"{self.name}: {self.file} has {text.count(self.before)} times: {self.before}")
        path.write_text(text.replace(self.before, self.after), encoding="ascii")


MUTANTS = [
    Mutant(
        name="a lost link is not made again",
        file="shared/Session.mqh",
        before="if(m_state == SESSION_CLOSED && RunMs() < m_next_attempt)",
        after="if(m_state == SESSION_CLOSED && m_next_attempt > 0)",
        tests=EXPERTS,
        among="connection_that_ends",
    ),
    Mutant(
        name="a quotation mark in a text is not escaped",
        file="shared/Json.mqh",
        before="if(letter >= 32 && letter != 34 && letter != 92)",
        after="if(letter >= 32 && letter != 92)",
        tests=EXPERTS,
        among="text_beyond_ascii and mt5 and tcp",
    ),
    Mutant(
        name="MT5 sells where it should buy",
        file="mt5/Trade5.mqh",
        before="   double closing = tick.ask;\n   if(order.buy)",
        after="   double closing = tick.ask;\n   if(!order.buy)",
        tests=PROMISES,
        among="a_buy_is_filled and mt5-tcp-hedging",
    ),
    Mutant(
        name="MT4 buys where it should sell",
        file="mt4/Trade4.mqh",
        before="int command = OP_SELL;",
        after="int command = OP_BUY;",
        tests=PROMISES,
        among="a_sell_is_filled and mt4-files",
    ),
    Mutant(
        name="a frame whose end comes by itself is overlooked",
        file="shared/Frames.mqh",
        before="m_looked = m_count;\n      if(",
        after="m_looked = m_count + 1;\n      if(",
        tests=PIECES,
        among="lines_come_out_whole",
    ),
    Mutant(
        name="a frame loses its last letter",
        file="shared/Frames.mqh",
        before="int length = i - m_start;",
        after="int length = i - m_start - 1;",
        tests=EXPERTS,
        among="command_said_twice",
    ),
    Mutant(
        name="a command said twice is executed twice",
        file="shared/Dispatch.mqh",
        before="if(m_memory.Knows(command, answer))",
        after="if(StringLen(command) > 1000 && m_memory.Knows(command, answer))",
        tests=EXPERTS,
        among="command_said_twice",
    ),
    Mutant(
        name="a command whose answer is not known is executed again",
        file="shared/Dispatch.mqh",
        before="if(m_memory.Knows(command, answer))",
        after="if(m_memory.Knows(command, answer) && StringLen(answer) > 0)",
        tests=EXPERTS,
        among="cut_off_is_unknown",
    ),
    Mutant(
        name="what was done is not recalled after a restart",
        file="shared/Memory.mqh",
        before="if(reader.Read(StringSubstr(text, start, end - start)))",
        after="if(start < 0 && reader.Read(StringSubstr(text, start, end - start)))",
        tests=EXPERTS,
        among="remembered_by_an_expert",
    ),
    Mutant(
        name="a command is not written down before it is executed",
        file="shared/Memory.mqh",
        before='return(AppendShared(m_folder + "\\\\commands.log", Line(command, answer)));',
        after='return(StringLen(answer) == 0 || AppendShared(m_folder + "\\\\commands.log", Line(command, answer)));',
        tests=EXPERTS,
        among="cut_off_is_unknown",
    ),
    Mutant(
        name="a former owner's token is let in",
        file="shared/Memory.mqh",
        before="if(token < seen)",
        after="if(token < 0)",
        tests=PROMISES,
        among="older_token and mt5-tcp-hedging",
    ),
    Mutant(
        name="an owner's token is not written down",
        file="shared/Memory.mqh",
        before="if(token > seen && !WriteShared(name, WholeText(token)))",
        after="if(token > seen && StringLen(name) == 0)",
        tests=PROMISES,
        among="remembers_the_token and mt4-files",
    ),
    Mutant(
        name="a late order is executed",
        file="shared/Terminal.mqh",
        before="if(late_ms <= 0)",
        after="if(late_ms <= 3600000)",
        tests=PROMISES,
        among="reaches_the_far_end_after and mt5-tcp-hedging",
    ),
    Mutant(
        name="an order needs no permit",
        file="shared/Dispatch.mqh",
        before='if(!frame.IsKind("permit.token", JSON_NUMBER) || !frame.IsKind("permit.notAfterMs", JSON_NUMBER))',
        after='if(frame.Has("permit") && !frame.IsKind("permit.token", JSON_NUMBER))',
        tests=EXPERTS,
        among="without_name_or_permit",
    ),
    Mutant(
        name="the engine need not know the secret",
        file="shared/Session.mqh",
        before='!SameProof(frame.Text("proof"), ProofOf(m_secret, "engine|" + both))',
        after='StringLen(frame.Text("proof")) != 64',
        tests=EXPERTS,
        among="does_not_know_the_secret",
    ),
    Mutant(
        name="the input LotsMax caps nothing",
        file="shared/Dispatch.mqh",
        before="if(limits.lots_max > 0.0 && order.lots",
        after="if(limits.lots_max < 0.0 && order.lots",
        tests=EXPERTS,
        among="cap_lots and mt5 and tcp",
    ),
    Mutant(
        name="a close names its symbol and not its ticket",
        file="mt5/Trade5.mqh",
        before="      request.position = (ulong)ticket;\n      request.symbol = held.symbol;\n      request.volume = piece;",
        after="      request.symbol = held.symbol;\n      request.volume = piece;",
        tests=PROMISES,
        among="every_other_position_alone and mt5-tcp-hedging",
    ),
    Mutant(
        name="MT5 closes the whole position in place of a part",
        file="mt5/Trade5.mqh",
        before="   double lots = asked;\n   if(lots <= 0.0)\n      lots = held.lots;\n   if(lots > held.lots + LOTS_NOISE)\n"
        "      return(FailInvalid(failure, LOTS_EXCEED));\n   MqlTick tick;",
        after="   double lots = held.lots;\n   if(asked > held.lots + LOTS_NOISE)\n"
        "      return(FailInvalid(failure, LOTS_EXCEED));\n   MqlTick tick;",
        tests=PROMISES,
        among="a_partial_close_leaves_the_rest and mt5-tcp-hedging",
    ),
    Mutant(
        name="MT4 closes the whole order in place of a part",
        file="mt4/Trade4.mqh",
        before="if(!OrderClose(held.ticket, piece, ",
        after="if(!OrderClose(held.ticket, held.lots, ",
        tests=PROMISES,
        among="a_partial_close_leaves_the_rest and mt4-files",
    ),
    Mutant(
        name="MT5 leaves the magic number out",
        file="mt5/Trade5.mqh",
        before="request.magic = (ulong)order.magic;",
        after="request.magic = 0;",
        tests=PROMISES,
        among="magic_number_comes_back and mt5-tcp-hedging",
    ),
    Mutant(
        name="a quote is that of the chart's symbol",
        file="mt5/Trade5.mqh",
        before="   if(!ReadTick(symbol, tick, failure))\n      return(false);\n   data = QuoteJson(",
        after="   if(!ReadTick(Symbol(), tick, failure))\n      return(false);\n   data = QuoteJson(",
        tests=PROMISES,
        among="quote and mt5-tcp-hedging",
    ),
    Mutant(
        name="MT5 lists at most 250 positions",
        file="mt5/Trade5.mqh",
        before="      list += PositionJson();\n      profit += PositionGetDouble(POSITION_PROFIT);\n      count++;",
        after="      list += PositionJson();\n      profit += PositionGetDouble(POSITION_PROFIT);\n      count++;\n"
        "      if(count == 250)\n         break;",
        tests=EXPERTS,
        among="hundreds_of_positions and mt5 and tcp",
    ),
    Mutant(
        name="MT5 leaves a position out that it cannot read",
        file="mt5/Trade5.mqh",
        before='         return(FailUnavailable(failure, "the terminal counts " + WholeText(total) + '
        '" positions and does not show all of them"));',
        after="         continue;",
        tests=PROMISES,
        among="never_an_empty_list and mt5-tcp-hedging",
    ),
    Mutant(
        name="a terminal that lost its server lists nothing and says so",
        file="mt5/Trade5.mqh",
        before="   if(total == 0 && !connected)",
        after="   if(total < 0 && !connected)",
        tests=EXPERTS,
        among="says_that_it_lists_nothing",
    ),
    Mutant(
        name="MT4 does not tell the ticket of the rest",
        file="mt4/Trade4.mqh",
        before="      rest = FindRest(held);",
        after="      rest = 0;",
        tests=EXPERTS,
        among="tells_the_ticket_of_the_rest",
    ),
    Mutant(
        name="an order goes to whoever is logged in",
        file="mt5/Trade5.mqh",
        before="   if(here == account)",
        after="   if(here == account || StringLen(here) > 0)",
        tests=PROMISES,
        among="logged_in_elsewhere and mt5-tcp-hedging",
    ),
    Mutant(
        name="a level that is not named is removed",
        file="mt5/Trade5.mqh",
        before="if(change.has_stop)",
        after="if(change.has_stop || change.has_target)",
        tests=PROMISES,
        among="(absent_level or level_of_zero) and mt5-tcp-hedging",
    ),
    Mutant(
        name="an Expert Advisor with nothing to say falls silent",
        file="shared/Session.mqh",
        before="RunMs() - m_said > ALIVE_MS",
        after="RunMs() - m_said > ALIVE_MS * 1000",
        tests=EXPERTS,
        among="signs_of_life",
    ),
    Mutant(
        name="an engine that fell silent is waited for",
        file="shared/Session.mqh",
        before="now - m_heard > SILENCE_MS",
        after="now - m_heard > SILENCE_MS * 1000",
        tests=EXPERTS,
        among="falls_silent",
    ),
    Mutant(
        name="what arrives by the DLL loses a byte",
        file="shared/CarrierDll.mqh",
        before="lines.Add(bytes, count);",
        after="lines.Add(bytes, count - 1);",
        tests=CARRIER,
        among="opened_and_closed",
    ),
    Mutant(
        name="a link of the DLL that ended is not noticed",
        file="shared/CarrierDll.mqh",
        before="         if(count < 0)\n           {\n            Lost(count);\n            return;\n           }",
        after="         if(count < 0)\n            return;",
        tests=CARRIER,
        among="cannot_prove_who_it_is",
    ),
    Mutant(
        name="a list of positions that is too long is told",
        file="shared/Dispatch.mqh",
        before=" && StringLen(data) <= PUSHED_LETTERS_MAX)",
        after=" && StringLen(data) > 0)",
        tests=EXPERTS,
        among="too_long_to_be_told",
    ),
    Mutant(
        name="of the positions that are told some are missing",
        file="shared/Dispatch.mqh",
        before='ReadPositions(m_account, "", data, failure) && StringLen(data)',
        after='ReadPositions(m_account, "XAUUSD", data, failure) && StringLen(data)',
        tests=EXPERTS,
        among="nobody_has_to_ask and mt4-files",
    ),
    Mutant(
        name="a price that moves is told once and never again",
        file="shared/Prices.mqh",
        before="      m_prices[place].bid = tick.bid;\n      m_prices[place].ask = tick.ask;\n      return(moved);",
        after="      m_prices[place].bid = tick.bid;\n      m_prices[place].ask = tick.ask;\n"
        "      if(moved)\n         m_prices[place].asked = 0 - PRICE_WANTED_MS;\n      return(moved);",
        tests=EXPERTS,
        among="told_when_they_move and mt5-tcp",
    ),
    Mutant(
        name="a pipe is written to whether anybody reads or not",
        file="shared/CarrierPipe.mqh",
        before="if(!HasRoom(length) && !WaitForRoom(length, give_up))",
        after="if(!HasRoom(length) && start < 0 && !WaitForRoom(length, give_up))",
        tests=FROZEN,
        among="mt4-pipe",
    ),
    Mutant(
        name="files are left whether anybody reads them or not",
        file="shared/CarrierFiles.mqh",
        before="if(m_sent >= UNREAD_MAX && ",
        after="if(m_sent < 0 && ",
        tests=FROZEN,
        among="mt4-files",
    ),
    Mutant(
        name="an engine that reads by the crumb is waited for",
        file="mt5/Stream5.mqh",
        before="while(count > 0 && RunMs() <= give_up)",
        after="while(count > 0 && give_up > 0)",
        tests=EXPERTS,
        among="by_the_crumb",
    ),
]
SHORT = (
    "a command said twice is executed twice",
    "MT4 closes the whole order in place of a part",
    "a former owner's token is let in",
)
"""The share the tests take."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    killed: bool
    by: str
    """The test that noticed, or what went wrong."""


def hunt(mutant: Mutant) -> Verdict:
    """Break a copy of the sources and run the tests on it."""
    with tempfile.TemporaryDirectory(prefix="mt-copier-mutant-") as name:
        folder = Path(name) / "mql"
        shutil.copytree(MQL, folder)
        probe = Path(name) / "tests" / "mql" / "probe.mq5"
        probe.parent.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "mql" / "probe.mq5", probe)
        mutant.apply(folder)
        return _verdict(mutant, _run(mutant, folder))


def _run(mutant: Mutant, folder: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", "60", "--tb=short", "-rf", "-p", "no:cacheprovider"]
    command += ["-m", "server", mutant.tests, "-k", mutant.among]
    kept = folder.parent / "t"
    kept.mkdir()
    environment = {**os.environ, "COPIER_MQL": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "300", "TMPDIR": str(kept)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.stdout


def _verdict(mutant: Mutant, said: str) -> Verdict:
    if "BuildFailed" in said:
        return Verdict(mutant, killed=False, by=f"does not compile: {said[-500:]}")
    failed = re.search(r"^FAILED \S+?::(\w+).* - ", said, re.MULTILINE)
    if failed:
        return Verdict(mutant, killed=True, by=failed[1])
    if re.search(r"\d+ passed", said):
        return Verdict(mutant, killed=False, by="survived")
    return Verdict(mutant, killed=False, by=f"nothing was tried: {said[-500:]}")


HEAD = """# The Expert Advisors, broken on purpose

Each line is a break of the MQL sources. The broken program compiles, and then a test says so. Written by
`python -m tests.mql.mutants`; `make test-servers` tries a few of them.

| broken so | in | noticed by |
|---|---|---|
"""


def page(verdicts: list[Verdict]) -> str:
    """Return the table."""
    lines = [f"| {each.mutant.name} | `{each.mutant.file}` | `{each.by}` |" for each in verdicts]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    """Hunt every mutant and write the table; return how many survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="those whose name has this")
    only = parser.parse_args().only
    verdicts = []
    for mutant in MUTANTS:
        if only not in mutant.name:
            continue
        verdicts.append(hunt(mutant))
        sys.stdout.write(f"{'killed' if verdicts[-1].killed else 'ALIVE '}  {mutant.name}: {verdicts[-1].by}\n")
        sys.stdout.flush()
    alive = [each for each in verdicts if not each.killed]
    if not alive and not only:
        DOCS.write_text(page(verdicts), encoding="utf-8")
    return len(alive)


if __name__ == "__main__":
    sys.exit(main())
