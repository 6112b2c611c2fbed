"""A ledger's disk that fails on request: full, locked, refusing, or saying too late that it has written."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from copier.database import MEMORY, Database
from copier.errors import StoreError

T = TypeVar("T")
BUSY_S = 1.0


class FailingDatabase(Database):
    """A database whose every call can be killed before and after what it does."""

    def __init__(self) -> None:
        super().__init__(MEMORY)
        self.refusals = 0
        """So many transactions end in an error and are not there."""
        self.lates = 0
        """So many end in an error and are there: their confirmation, or the fsync's answer, was lost."""
        self.full = self.locked = False

    def calm(self) -> None:
        """Let nothing go wrong any more."""
        self.refusals = self.lates = 0
        self.full = self.locked = False

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        await asyncio.sleep(0)
        if self.locked:
            await asyncio.sleep(BUSY_S)
            if self.locked:
                raise StoreError("database is locked")
        if self.full:
            raise StoreError("database or disk is full")
        if self.refusals:
            self.refusals -= 1
            raise StoreError("disk I/O error")
        answer = self._transact(work)
        await asyncio.sleep(0)
        if self.lates:
            self.lates -= 1
            raise StoreError("no answer in time")
        return answer

    def read(self, query: "sa.Select[Any]") -> list[Any]:
        """Return rows for the judge, whatever fails just now."""
        with self._engine.begin() as connection:
            return list(connection.execute(query))
