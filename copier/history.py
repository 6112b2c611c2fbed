"""What was seen over time: samples of balance and equity, and the alerts that were raised."""

from collections.abc import Iterable, Mapping
from decimal import Decimal

import sqlalchemy as sa

from copier import database as db
from copier import wire
from copier.alert import Alert
from copier.database import Database, upsert
from copier.model import Account, Record


class EquitySample(Record, frozen=True, kw_only=True):
    """What an account was worth at one moment, in its currency."""

    account: str
    """The account's name in the settings."""
    at_ms: int
    balance: Decimal
    equity: Decimal
    margin: Decimal
    currency: str


class History:
    """The samples in the ledger's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def keep(self, accounts: Mapping[str, Account], at_ms: int) -> None:
        """Keep one sample of each account, by its name, in one transaction. Raise `StoreError`."""
        rows = [
            {
                "account": name,
                "at_ms": at_ms,
                "balance": str(account.balance),
                "equity": str(account.equity),
                "margin": str(account.margin),
                "currency": account.currency,
            }
            for name, account in sorted(accounts.items())
        ]
        await self.database.run(lambda connection: upsert(connection, db.equity, rows))

    async def samples(self, name: str | None = None, since_ms: int = 0) -> list[EquitySample]:
        """Return the samples of one account or of all, oldest first. Raise `StoreError`."""
        query = sa.select(db.equity).where(db.equity.c.at_ms >= since_ms).order_by(db.equity.c.at_ms, db.equity.c.account)
        if name is not None:
            query = query.where(db.equity.c.account == name)
        return [_sample(row) for row in await self.database.run(lambda connection: connection.execute(query).all())]

    async def latest(self) -> dict[str, EquitySample]:
        """Return the newest sample of every account, by its name. Raise `StoreError`."""
        newest = sa.select(db.equity.c.account, sa.func.max(db.equity.c.at_ms).label("at_ms")).group_by(db.equity.c.account)
        each = newest.subquery()
        joined = (db.equity.c.account == each.c.account) & (db.equity.c.at_ms == each.c.at_ms)
        query = sa.select(db.equity).join(each, joined)
        rows = await self.database.run(lambda connection: connection.execute(query).all())
        return {row.account: _sample(row) for row in rows}

    async def keep_alerts(self, alerts: Iterable[Alert]) -> None:
        """Keep alerts as they stand by now, each in place of what was kept of it before. Raise `StoreError`."""
        rows: list[dict[str, object]] = [
            {
                "watchdog": alert.watchdog.value,
                "subject": alert.subject,
                "raised_ms": alert.raised_ms,
                "ended_ms": alert.ended_ms,
                "body": wire.encode(alert),
            }
            for alert in alerts
        ]
        await self.database.run(lambda connection: upsert(connection, db.alerts, rows))

    async def alerts(self, *, newest: int | None = None) -> list[Alert]:
        """Return the newest alerts, or without a number those that stand, oldest first. Raise `StoreError`."""
        query = sa.select(db.alerts.c.body).order_by(db.alerts.c.raised_ms.desc(), db.alerts.c.watchdog, db.alerts.c.subject)
        query = query.where(db.alerts.c.ended_ms == 0) if newest is None else query.limit(newest)
        rows = await self.database.run(lambda connection: connection.execute(query).all())
        return [wire.decode(body, Alert) for (body,) in reversed(rows)]

    async def trim(self, before_ms: int) -> int:
        """Forget samples and ended alerts older than this; return how many. Raise `StoreError`."""
        old = [
            sa.delete(db.equity).where(db.equity.c.at_ms < before_ms),
            sa.delete(db.alerts).where((db.alerts.c.ended_ms > 0) & (db.alerts.c.ended_ms < before_ms)),
        ]
        return await self.database.run(lambda connection: sum(connection.execute(each).rowcount for each in old))


def _sample(row: sa.Row[tuple[object, ...]]) -> EquitySample:
    return EquitySample(
        account=row.account,
        at_ms=row.at_ms,
        balance=Decimal(row.balance),
        equity=Decimal(row.equity),
        margin=Decimal(row.margin),
        currency=row.currency,
    )
