"""Looks at every account and relation before money does: what is wrong, and the click or setting that mends it.

Nothing is ever traded, except by the trade test, which a person asks for by name, on a demo account, at the smallest volume.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from copier.app import ledger_file
from copier.clock import Clock, SystemClock
from copier.doctor_advice import advice_for, blocker_advice
from copier.doctor_trade import TradeTest, trade_test
from copier.errors import GatewayError, Rejected, SettingsError, Unavailable
from copier.gateway import Gateway
from copier.gateways.opening import PaperWorld, open_gateway
from copier.locks import RoleLock
from copier.looking import stores
from copier.model import Account, MarginMode, Positions, Quote, Record, Refused, SymbolSpec, TradeMode
from copier.policy import Mode, MultiplierSize
from copier.settings import CopySettings, Settings, load
from copier.steps import is_on, plain
from copier.symbols import contract_warning, different_instrument, follower_symbol

PRICE_WAIT_S = 3.0
"""A symbol nobody has looked at may need a moment for its first price."""


SYMBOLS_NAMED = 8


class Weight(StrEnum):
    """How much a finding matters."""

    MEND = "mend"
    """Copying does not work, or not as the settings say, until this is mended."""
    HINT = "hint"
    """Worth knowing."""


class Finding(Record, frozen=True, kw_only=True):
    """One thing that is wrong or worth knowing."""

    weight: Weight
    code: str
    """snake_case and stable."""
    message: str
    mend: str = ""
    """The click or setting that mends it."""


class AccountReport(Record, frozen=True, kw_only=True):
    """One account as it was found."""

    name: str
    kind: str
    roles: tuple[str, ...]
    """`master NAME`, `follower NAME`."""
    reached_ms: int | None = None
    """How long connecting took; None where it failed."""
    read_ms: int | None = None
    """How long reading account and positions took."""
    account: Account | None = None
    positions: int = 0
    findings: tuple[Finding, ...] = ()


class RelationReport(Record, frozen=True, kw_only=True):
    """One follower's copying of one master."""

    follower: str
    master: str
    symbols: dict[str, str] = {}
    """The master's symbols that were looked at, and what they are at the follower."""
    findings: tuple[Finding, ...] = ()


class Diagnosis(Record, frozen=True, kw_only=True):
    """All that was found."""

    accounts: tuple[AccountReport, ...] = ()
    relations: tuple[RelationReport, ...] = ()
    trade: TradeTest | None = None

    @property
    def good(self) -> bool:
        """True where nothing must be mended."""
        findings = [finding for report in self.accounts for finding in report.findings]
        findings += [finding for relation in self.relations for finding in relation.findings]
        return all(finding.weight is not Weight.MEND for finding in findings) and (self.trade is None or self.trade.good)


async def command(config: Path, *, symbol: str = "", account: str = "") -> Diagnosis:
    """Examine what a file describes; with `symbol` and `account` try trading there too. Raise `SettingsError`."""
    settings = load(config)
    clock = SystemClock()
    if bool(symbol) != bool(account):
        raise SettingsError(["--trade-test SYMBOL and --account NAME belong together"], source="command")
    if account and account not in settings.accounts:
        known = ", ".join(sorted(settings.accounts))
        raise SettingsError([f"account {account}: expected one of {known}"], source="command")
    paper = PaperWorld(clock)
    gateways = {name: open_gateway(each, clock, paper) for name, each in settings.accounts.items()}
    async with _moving(paper):
        return await diagnose(settings, gateways, clock, symbol=symbol, account=account)


async def diagnose(
    settings: Settings, gateways: Mapping[str, Gateway], clock: Clock, *, symbol: str = "", account: str = ""
) -> Diagnosis:
    """Open the gateways, by account, look at everything, and close them."""
    try:
        seen = await asyncio.gather(*(_examine(name, gateway, settings) for name, gateway in gateways.items()))
        looks = {look.report.name: look for look in seen}
        relations = await asyncio.gather(
            *(
                _relation(follower, copy, settings, looks, gateways)
                for follower, each in settings.followers.items()
                for copy in each.copies
            )
        )
        trade = None
        if account:
            trade = await _trade(settings, account, gateways[account], looks[account], symbol, clock)
        return Diagnosis(accounts=tuple(look.report for look in seen), relations=tuple(relations), trade=trade)
    finally:
        for gateway in gateways.values():
            with contextlib.suppress(GatewayError):
                await gateway.close()


def told(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield a diagnosis in lines for people."""
    for report in diagnosis.accounts:
        roles = ", ".join(report.roles) or "unused"
        account = report.account
        if account is None:
            yield f"{report.name} ({report.kind}; {roles}): not reached"
        else:
            money = f"{plain(account.balance)} {account.currency}"
            took = f"connected in {report.reached_ms} ms, read in {report.read_ms} ms"
            yield f"{report.name} ({report.kind}; {roles}): {account.account}, {account.margin_mode}, {money}, {took}"
        yield from _told(report.findings)
    for relation in diagnosis.relations:
        names = ", ".join(f"{ours} as {theirs}" for ours, theirs in relation.symbols.items()) or "no symbol to look at"
        yield f"{relation.follower} copies {relation.master}: {names}"
        yield from _told(relation.findings)
    if diagnosis.trade is not None:
        yield from diagnosis.trade.told()
    yield "Nothing has to be mended." if diagnosis.good else "Something has to be mended."


def _told(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings:
        yield f"  {'wrong' if finding.weight is Weight.MEND else 'note '}  {finding.message}"
        if finding.mend:
            yield f"         -> {finding.mend}"


# Accounts --------------------------------------------------------------------------------------------------------------


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What later looks build on."""

    report: AccountReport
    positions: Positions | None = None
    catalogue: dict[str, SymbolSpec] | None = None


async def _examine(name: str, gateway: Gateway, settings: Settings) -> _Look:
    """Connect to one account and read it."""
    loop = asyncio.get_running_loop()
    masters = [each for each, master in settings.masters.items() if master.account == name]
    followers = [each for each, follower in settings.followers.items() if follower.account == name]
    roles = (*(f"master {each}" for each in masters), *(f"follower {each}" for each in followers))
    kind = settings.accounts[name].kind
    begun = loop.time()
    try:
        await gateway.open()
        reached = loop.time()
        account = await gateway.get_account()
        positions = await gateway.get_positions()
        read = loop.time()
        catalogue = await _catalogue(gateway)
    except GatewayError as error:
        wrong = _mend("unreachable", error.message, advice_for(error.message, settings.accounts[name]))
        return _Look(report=AccountReport(name=name, kind=kind, roles=roles, findings=(wrong,)))
    report = AccountReport(
        name=name,
        kind=kind,
        roles=roles,
        reached_ms=round((reached - begun) * 1000),
        read_ms=round((read - reached) * 1000),
        account=account,
        positions=len(positions.positions),
        findings=tuple(_findings(account, gateway, masters=bool(masters), followers=bool(followers))),
    )
    return _Look(report=report, positions=positions, catalogue=catalogue)


async def _catalogue(gateway: Gateway) -> dict[str, SymbolSpec] | None:
    if gateway.symbols is None:
        return None
    return {spec.symbol: spec for spec in await gateway.symbols.get_symbols()}


def _findings(account: Account, gateway: Gateway, *, masters: bool, followers: bool) -> Iterator[Finding]:
    if not account.connected:
        yield _mend(
            "no_server",
            "the terminal has no connection to its trade server",
            "look at the lower right corner of the terminal: click there and choose `Rescan servers`, or check the network",
        )
    if followers and not account.trade_allowed:
        for blocker in (account.trade_blocker or "trading is not allowed").split("; "):
            yield _mend("trading_blocked", blocker, blocker_advice(blocker))
    if masters and not followers and account.trade_allowed and not account.demo:
        yield _hint(
            "master_can_trade",
            "this account is only watched, yet it is logged in so that it could trade",
            "log in with the investor (read-only) password: it is enough, and nothing here could trade the master then",
        )
    if account.server_offset_s is None:
        yield _hint(
            "clock_unknown",
            "what the trade server's clock differs from UTC is not known yet: no fresh price has been seen",
            "look again while a market is open; until then an open of unknown age counts as old",
        )
    if followers and gateway.deals is None:
        yield _hint("no_history", "deals cannot be read here: an order of unknown outcome is never sent again")
    if masters and gateway.wakes is None:
        yield _hint("polled", "changes are found by polling here: set the master's `poll_ms` as low as its machine bears")


# Relations -------------------------------------------------------------------------------------------------------------


async def _relation(
    follower: str, copy: CopySettings, settings: Settings, looks: Mapping[str, _Look], gateways: Mapping[str, Gateway]
) -> RelationReport:
    """Look at what copying one master would meet at one follower."""
    theirs = looks[settings.masters[copy.master].account]
    ours = looks[settings.followers[follower].account]
    if theirs.report.account is None or ours.report.account is None:
        return RelationReport(follower=follower, master=copy.master)
    findings = list(_modes(theirs.report.account, ours.report.account, copy))
    held = {position.symbol for position in theirs.positions.positions} if theirs.positions else set()
    findings += _offered(theirs.catalogue, ours.catalogue, copy)
    found: dict[str, str] = {}
    for symbol in sorted(held | set(copy.symbols.map)):
        spec = (theirs.catalogue or {}).get(symbol)
        name = follower_symbol(symbol, copy.symbols, spec, ours.catalogue)
        if isinstance(name, Refused):
            if name.code != "symbol_denied":
                place = f"followers.{follower}.copies ({copy.master}).{name.rule}"
                findings.append(_mend(name.code, name.message, f"set `symbols.map: {{{symbol}: ...}}` or mend {place}"))
            continue
        found[symbol] = name
        master_gateway = gateways[settings.masters[copy.master].account]
        if spec is None:
            quote = await _quote(master_gateway, symbol)
            spec = quote.spec if isinstance(quote, Quote) else None
        findings += await _symbol(symbol, spec, name, gateways[settings.followers[follower].account], copy)
    return RelationReport(follower=follower, master=copy.master, symbols=found, findings=tuple(findings))


def _modes(master: Account, follower: Account, copy: CopySettings) -> Iterator[Finding]:
    if copy.mode in (Mode.CLOSE_ONLY, Mode.FROZEN):
        yield _hint("not_live", f"this relation is set to {copy.mode}: nothing is opened")
    netting = MarginMode.NETTING
    if follower.margin_mode is netting and master.margin_mode is not netting:
        yield _hint(
            "hedging_to_netting",
            "the master may hold several positions of one symbol, the follower only one: opposite trades cancel out there",
            "use a hedging account for a faithful copy, or keep to one direction per symbol with `filters`",
        )
    if master.margin_mode is netting and follower.margin_mode is not netting:
        yield _hint("netting_to_hedging", "what the master adds to one position becomes several positions at the follower")


def _offered(
    theirs: Mapping[str, SymbolSpec] | None, ours: dict[str, SymbolSpec] | None, copy: CopySettings
) -> Iterator[Finding]:
    """Say which of all the master's symbols would not be copied, where both brokers list theirs."""
    if theirs is None or ours is None:
        return
    names = {symbol: follower_symbol(symbol, copy.symbols, spec, ours) for symbol, spec in theirs.items()}
    missing = sorted(symbol for symbol, name in names.items() if isinstance(name, Refused) and name.code != "symbol_denied")
    if missing:
        some = ", ".join(missing[:SYMBOLS_NAMED]) + (", ..." if len(missing) > SYMBOLS_NAMED else "")
        yield _hint("not_offered", f"of the master's {len(theirs)} symbols {len(missing)} have no counterpart here: {some}", _MAP)


async def _symbol(symbol: str, master: SymbolSpec | None, name: str, gateway: Gateway, copy: CopySettings) -> list[Finding]:
    """Look at one symbol at the follower."""
    quote = await _quote(gateway, name)
    if not isinstance(quote, Quote):
        if isinstance(quote, Rejected):
            return [_mend("symbol_missing", f"{symbol} is {name} at the follower, which its broker does not offer", _MAP)]
        return [_hint("no_price", f"{name} has no price just now: {quote.message}")]
    spec = quote.spec
    findings = []
    if spec.trade_mode is not TradeMode.FULL:
        findings.append(_mend("symbol_restricted", f"{name} is {spec.trade_mode} at this broker", _MAP))
    if master is None:
        return findings
    if other := different_instrument(master, spec):
        findings.append(_mend("different_instrument", f"{name} is not the master's {symbol}: {other}", _MAP))
    if warning := contract_warning(master, spec):
        findings.append(_hint("contract_size", warning, "size by `notional`, or set a `multiplier` that makes up for it"))
    findings += _rounding(symbol, master, name, spec, copy)
    return findings


_MAP = "map it to the right symbol with `symbols.map`"


def _rounding(symbol: str, master: SymbolSpec, name: str, spec: SymbolSpec, copy: CopySettings) -> Iterator[Finding]:
    """Say where a multiplied volume is no volume at this broker."""
    if not isinstance(copy.size, MultiplierSize):
        return
    times = copy.size.multiplier
    least = master.volume_min * times
    if least < spec.volume_min:
        yield _hint(
            "below_minimum",
            f"{plain(master.volume_min)} lots of {symbol} x {plain(times)} are {plain(least)}, the least of {name} here is "
            f"{plain(spec.volume_min)}: the master's trades below {plain(spec.volume_min / times)} lots fall under "
            f"`below_min: {copy.size.below_min}`",
            "raise `multiplier`, or choose what `size.below_min` does with them",
        )
    elif not is_on(master.volume_step * times, spec.volume_step):
        yield _hint(
            "off_step",
            f"{plain(master.volume_step)} lots of {symbol} x {plain(times)} are no whole steps of {plain(spec.volume_step)} "
            f"lots of {name}: volumes are rounded, `size.rounding: {copy.size.rounding}`",
        )


async def _quote(gateway: Gateway, symbol: str) -> Quote | GatewayError:
    """Return a price, waiting a moment for the first; or why there is none."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PRICE_WAIT_S
    while True:
        try:
            return await gateway.get_quote(symbol)
        except Unavailable as error:
            if loop.time() >= end:
                return error
        except GatewayError as error:
            return error
        await asyncio.sleep(0.2)


# Trading ---------------------------------------------------------------------------------------------------------------


async def _trade(settings: Settings, name: str, gateway: Gateway, look: _Look, symbol: str, clock: Clock) -> TradeTest:
    account = look.report.account
    if account is None:
        return TradeTest(account=name, symbol=symbol, error="the account was not reached")
    if not account.demo:
        text = f"{account.account} is no demo account: the trade test is for demo accounts only"
        return TradeTest(account=name, symbol=symbol, error=text)
    followers = [each for each, follower in settings.followers.items() if follower.account == name]
    async with _owned(settings, followers) as token:
        return await trade_test(name, gateway, symbol, clock, token)


@contextlib.asynccontextmanager
async def _owned(settings: Settings, followers: list[str]) -> AsyncIterator[int]:
    """Become the account's owner and yield the owner's token; raise `Fenced` where a worker of this machine is at work."""
    file = ledger_file(settings)
    if not followers or (file is not None and not file.exists()):
        yield 1
        return
    with contextlib.ExitStack() as held:
        for role in _worker_roles(file):
            role.take()
            held.callback(role.release)
        async with stores(settings) as (ledger, _):
            tokens = await ledger.take([f"follower:{name}" for name in followers])
        yield max(tokens.values())


def _worker_roles(file: Path | None) -> list[RoleLock]:
    """Return the lock of every worker that has ever worked with a ledger's file."""
    if file is None:
        return []
    prefix = f"{file.name}.worker-"
    found = sorted(file.parent.glob(f"{prefix}*.lock"))
    return [RoleLock(file, f"worker:{path.name.removeprefix(prefix).removesuffix('.lock')}") for path in found]


@contextlib.asynccontextmanager
async def _moving(paper: PaperWorld) -> AsyncIterator[None]:
    """Let the simulated brokers' prices move meanwhile."""
    if not paper.servers:
        yield
        return
    task = asyncio.create_task(paper.run(), name="paper prices")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _mend(code: str, message: str, mend: str = "") -> Finding:
    return Finding(weight=Weight.MEND, code=code, message=message, mend=mend)


def _hint(code: str, message: str, mend: str = "") -> Finding:
    return Finding(weight=Weight.HINT, code=code, message=message, mend=mend)
