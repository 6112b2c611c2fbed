"""Looks for a mutant in one history after the other until the judge has caught it."""

import logging
import re

import msgspec
import pytest

from tests.mutants.flavours import Flavour
from tests.mutants.mutants import INVARIANTS, MUTANTS, Mutant
from tests.simulation.history import History
from tests.simulation.judge import judge


class Hunt(msgspec.Struct, frozen=True):
    """What came of looking for a mutant."""

    mutant: str
    first: int
    """The first seed."""
    histories: int
    """How many were played."""
    invariant: str = ""
    """What the mutant broke; empty where it got away."""
    words: str = ""
    """The judge's."""


def broken_in(flavour: Flavour, seed: int, mutant: Mutant | None = None) -> list[str]:
    """Return what the judge says of a history, in its words, with a mutant in the engine or without."""
    with pytest.MonkeyPatch.context() as patch:
        for condition in flavour.conditions:
            condition(patch)
        if mutant is not None:
            mutant.apply(patch)
        history = History(flavour.plan(seed))
        try:
            return history.run(judge)
        except (Exception, AssertionError) as error:
            return [f"ended by {error!r}"]


def invariant_of(words: str) -> str:
    """Return which invariant the judge speaks of."""
    return next((name for name, pattern in INVARIANTS.items() if re.search(pattern, words)), "")


def hunt(mutant: Mutant, first: int) -> Hunt:
    """Play histories from a seed on until one is wrong by an invariant the mutant breaks, and right without the mutant."""
    logging.getLogger("copier").setLevel(logging.CRITICAL + 1)
    for index in range(mutant.bound):
        seed = first + index
        told = [(invariant_of(words), words) for words in broken_in(mutant.flavour, seed, mutant)]
        caught = next((each for meant in mutant.breaks for each in told if each[0] == meant), None)
        if caught is not None and not broken_in(mutant.flavour, seed):
            return Hunt(mutant.name, first, index + 1, *caught)
    return Hunt(mutant.name, first, mutant.bound)


def hunt_by_name(name: str, first: int) -> Hunt:
    """Do the same in another process, to which a patch cannot be sent."""
    return hunt(next(mutant for mutant in MUTANTS if mutant.name == name), first)
