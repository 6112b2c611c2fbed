"""What is open at one follower's account or on its way, added up as beliefs and prices change: what limits are measured on."""

from collections.abc import Sequence
from decimal import Decimal

from copier.facts import Exposure, Held
from copier.link import Leg, LegState, Link, LinkName
from copier.memory import Memory
from copier.model import Position
from copier.settings import FollowerSettings
from copier.standing import Standing
from copier.symbols import commission_per_lot

_FOREIGN: LinkName = ("", "")
"""Under what other hands' positions are held; no link has this name."""


class Holdings:
    """Our legs by belief and other hands' positions by the last read, as exposures."""

    def __init__(self, memory: Memory, standing: Standing, settings: FollowerSettings) -> None:
        self._memory = memory
        self._standing = standing
        self._symbols = {copy.master: copy.symbols for copy in settings.copies}
        self._held = Held()
        self._foreign: Sequence[Position] = ()

    def look(self, foreign: Sequence[Position]) -> Held:
        """Return what is held as of now; it changes with the next look. Only what has changed since the last is computed."""
        unweighed, self._memory.unweighed = self._memory.unweighed, {}
        revalued, self._standing.revalued = self._standing.revalued, set()
        settled, self._standing.settled = self._standing.settled, {}
        if revalued:
            unweighed |= {name: None for name, link in self._memory.living.items() if link.symbol in revalued}
        for name in unweighed | settled:
            link = self._memory.living.get(name)
            self._held.put(name, () if link is None else self._of_link(link))
        if revalued or foreign is not self._foreign:
            self._foreign = foreign
            self._held.put(_FOREIGN, tuple(self._of_position(position) for position in foreign))
        return self._held

    def _of_link(self, link: Link) -> tuple[Exposure, ...]:
        """Return a link's exposures; what the broker said to be closed counts no more, though no read has confirmed it yet."""
        cut = link.cut
        gone = cut.tag if cut is not None and cut.answered and not cut.unfound and not cut.lots_after else ""
        return tuple(self._of_leg(link, leg) for leg in link.legs if leg.living and leg.tag != gone)

    def _of_leg(self, link: Link, leg: Leg) -> Exposure:
        lots = leg.lots if leg.state is LegState.OPEN else leg.asked
        now = self._standing.price_to_close(link.symbol, link.side)
        if now is None:
            now = leg.price
        return Exposure(
            symbol=link.symbol,
            side=link.side,
            lots=lots,
            price=leg.price or now,
            current=now,
            stop=leg.stop_loss or link.stop_loss,
            commission=self._commission(link) * lots,
            spec=self._standing.spec(link.symbol),
            relation=link.master,
            sending=leg.state is not LegState.OPEN or leg.tag in self._standing.unaccounted,
        )

    def _commission(self, link: Link) -> Decimal:
        return commission_per_lot(link.symbol, self._symbols[link.master])

    def _of_position(self, position: Position) -> Exposure:
        return Exposure(
            symbol=position.symbol,
            side=position.type,
            lots=position.lots,
            price=position.open_price,
            current=position.current_price,
            stop=position.stop_loss,
            swap=position.swap,
            spec=self._standing.spec(position.symbol),
        )
