"""How a trap is laid open: each trap's test names the guard it relies on, and how to take that guard out of the shipped code."""

import asyncio
import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from copier.intake import Intake
from copier.memory import Relation
from copier.model import DealEntry, Snapshot
from tests.world import World

Trap = TypeVar("Trap", bound=Callable[[], None])
Removal = Callable[[pytest.MonkeyPatch], None]


def sprung_by(*removals: Removal) -> Callable[[Trap], Trap]:
    """Say by which removals, each alone, the trap of a test is sprung; all are undone after the test."""

    def mark(trap: Trap) -> Trap:
        trap.removals = removals  # type: ignore[attr-defined]
        return trap

    return mark


def removals_of(trap: Callable[[], None]) -> tuple[Removal, ...]:
    """Return what was said by `sprung_by`."""
    found: tuple[Removal, ...] = getattr(trap, "removals", ())
    return found


def instead(owner: Any, name: str, naive: Callable[..., Any]) -> Removal:
    """Return the removal that puts `naive` in the place of a method; it is given the original before the other arguments."""

    def remove(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(owner, name, functools.partialmethod(_around, getattr(owner, name), naive))

    remove.__doc__ = f"{owner.__name__}.{name}: {(naive.__doc__ or naive.__name__).strip()}"
    return remove


def _around(self: Any, original: Callable[..., Any], naive: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return naive(original, self, *args, **more)


def replaced(target: str, naive: Any) -> Removal:
    """Return the removal that puts `naive` in the place of a function where one module looks it up."""

    def remove(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(target, naive)

    return remove


def both(*removals: Removal) -> Removal:
    """Return one removal that takes out several guards, each of which would hold alone."""

    def remove(patch: pytest.MonkeyPatch) -> None:
        for each in removals:
            each(patch)

    return remove


def _begin_only(_: Any, intake: Intake, relation: Relation, event: Snapshot) -> None:
    relation.specs.update(event.specs)
    relation.started, relation.gap = True, False


edges_only = instead(Intake, "_accept_snapshot", _begin_only)
"""Copying by events alone, as rivals do: what was missed or forgotten is told by nothing later."""


# Short ways in stories -------------------------------------------------------------------------------------------------------


async def stop_worker(world: World) -> None:
    world.worker_task.cancel()
    await asyncio.gather(world.worker_task, return_exceptions=True)


async def stop_watcher(world: World) -> None:
    world.watcher_task.cancel()
    await asyncio.gather(world.watcher_task, return_exceptions=True)


async def restart_worker(world: World) -> None:
    await stop_worker(world)
    world.start_worker()


def opened(world: World, name: str = "f") -> Decimal:
    """Return all lots that the engine ever had opened at a follower, by its broker's own deals."""
    deals = world.accounts[name].account.deals
    return sum((deal.lots for deal in deals if deal.entry is DealEntry.IN and deal.reason == "expert"), Decimal(0))


async def codes(world: World, name: str = "f") -> list[str]:
    return [receipt.code for receipt in await world.receipts(name)]
