"""Rebuilds closed positions from deals alone: which opening each closing belongs to, as far as it can be decided.

MetaTrader's list of deals names no position. On a hedging account a position's ticket is its opening order's, so the openings
are certain; a closing is matched to the opening of its symbol, side and volume whose price gives its profit to the coin.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from decimal import Decimal

import msgspec

from copier.export_specs import Money, learn_money, smallest_coin
from copier.exports import ExportDeal, ExportPosition
from copier.model import ZERO, DealEntry, Record, Side

_CANDIDATES_MAX = 8
NOTES = (
    "deals carry no stop and no target: both are 0",
    "pairing assumes a hedging account; on a netting account every addition is listed as a position of its own",
)


class Rebuilt(Record, frozen=True, kw_only=True):
    """Positions made of deals, in the order they were closed; one closed in parts has a row for each part."""

    positions: tuple[ExportPosition, ...]
    decided: int
    """Rows whose pairing is the only one under which every profit comes out to the coin."""
    ambiguous: tuple[int, ...]
    """Tickets whose closing may as well belong to another opening: the profits are equal to the coin."""
    guessed: tuple[int, ...]
    """Tickets paired by nearest profit or first in, first out, as no pairing gives the profit to the coin."""
    still_open: tuple[int, ...]
    """Tickets of openings that are not wholly closed."""
    unmatched: tuple[ExportDeal, ...]
    """Closings without an opening: the export begins after it."""
    notes: tuple[str, ...]
    """What deals cannot tell, in plain words."""


class _Opening(msgspec.Struct, kw_only=True, eq=False):
    """An opening deal, and what of it is not closed yet."""

    deal: ExportDeal
    lots: Decimal
    left: Decimal

    @property
    def ticket(self) -> int:
        return self.deal.order or self.deal.deal


class _Closing(msgspec.Struct, kw_only=True, eq=False):
    """A closing deal, or the closing part of a reversal."""

    deal: ExportDeal
    lots: Decimal


class _Book(msgspec.Struct, kw_only=True, eq=False):
    """One symbol's openings and closings of one side, oldest first."""

    side: Side
    openings: list[_Opening] = []
    closings: list[_Closing] = []
    certain: list[tuple[_Opening, _Closing]] = []
    """Pairs with nothing else open before or after."""
    left: Decimal = ZERO
    alone: _Opening | None = None


def rebuild_positions(deals: Sequence[ExportDeal]) -> Rebuilt:
    """Return the closed positions that `deals` make; what cannot be decided is said, never hidden."""
    coin = smallest_coin(deal.profit for deal in deals if deal.profit)
    books = _books(deals)
    pairing = _Pairing(coin)
    for symbol in sorted({symbol for symbol, _ in books}):
        both = [books[symbol, side] for side in Side if (symbol, side) in books]
        known = [_position(book.side, opening, closing) for book in both for opening, closing in _known_pairs(book)]
        money = learn_money(known, coin)
        for book in both:
            pairing.pair(book, money)
    return pairing.rebuilt(books)


def _books(deals: Sequence[ExportDeal]) -> dict[tuple[str, Side], _Book]:
    books: dict[tuple[str, Side], _Book] = {}
    for deal in sorted(deals, key=lambda deal: (deal.time, deal.deal)):
        same = books.setdefault((deal.symbol, deal.side), _Book(side=deal.side))
        other = books.setdefault((deal.symbol, deal.side.opposite), _Book(side=deal.side.opposite))
        match deal.entry:
            case DealEntry.IN:
                opens = deal.lots
            case DealEntry.INOUT:
                opens = max(ZERO, deal.lots - other.left)
            case _:
                opens = ZERO
        closes = deal.lots - opens
        if closes or (deal.entry is DealEntry.INOUT and deal.profit):  # else it reversed what is older than the export
            _close(other, _Closing(deal=deal, lots=closes))
        if opens:
            _open(same, _Opening(deal=deal, lots=opens, left=opens))
    return books


def _open(book: _Book, opening: _Opening) -> None:
    book.alone = None if book.left else opening
    book.left += opening.lots
    book.openings.append(opening)


def _close(book: _Book, closing: _Closing) -> None:
    book.left = max(ZERO, book.left - closing.lots)
    if book.alone is not None and not book.left and book.alone.lots == closing.lots:
        book.certain.append((book.alone, closing))
    book.alone = None
    book.closings.append(closing)


def _known_pairs(book: _Book) -> Iterator[tuple[_Opening, _Closing]]:
    """Return pairs to learn the money from: the certain ones, else what may have been, from which the likeliest is learnt."""
    if book.certain:
        yield from book.certain
        return
    for closing in book.closings:
        earlier = [o for o in book.openings if o.deal.time <= closing.deal.time and o.lots == closing.lots]
        yield from ((opening, closing) for opening in earlier[-_CANDIDATES_MAX:])


class _Pairing:
    """Who belongs to whom, book by book."""

    def __init__(self, coin: Decimal) -> None:
        self._coin = coin
        self._positions: list[ExportPosition] = []
        self._decided = 0
        self._ambiguous: set[int] = set()
        self._guessed: set[int] = set()
        self._unmatched: list[ExportDeal] = []

    def pair(self, book: _Book, money: Money) -> None:
        """Pair one book: whole positions to the coin first, then what is left, oldest closing first."""
        volumes = sorted({closing.lots for closing in book.closings})
        paired: set[int] = set()
        for lots in volumes:
            openings = sorted((o for o in book.openings if o.lots == lots), key=lambda o: o.deal.price)
            closings = [closing for closing in book.closings if closing.lots == lots]
            graph = [self._takes(book.side, openings, closing, money) for closing in closings]
            matching = match_all(graph, len(openings))
            unsure = swappable(graph, matching, len(openings))
            for index, place in enumerate(matching):
                if place is not None:
                    paired.add(id(closings[index]))
                    self._take(book.side, openings[place], closings[index], self._ambiguous if index in unsure else None)
        for closing in book.closings:
            if id(closing) not in paired:
                self._pair_rest(book, closing, money)

    def rebuilt(self, books: dict[tuple[str, Side], _Book]) -> Rebuilt:
        """Return all that was paired."""
        open_still = sorted(opening.ticket for book in books.values() for opening in book.openings if opening.left)
        return Rebuilt(
            positions=tuple(sorted(self._positions, key=lambda position: (position.close_time, position.position))),
            decided=self._decided,
            ambiguous=tuple(sorted(self._ambiguous)),
            guessed=tuple(sorted(self._guessed)),
            still_open=tuple(open_still),
            unmatched=tuple(self._unmatched),
            notes=NOTES,
        )

    def _takes(self, side: Side, openings: Sequence[_Opening], closing: _Closing, money: Money) -> list[int]:
        """Return which openings, in order of price, give the closing's profit to the coin; the oldest first."""
        deal = closing.deal
        per_lot = money.per_unit(deal.price) * closing.lots
        first, last = 0, len(openings)
        if per_lot > 0:
            ends = (deal.price - side.sign * (deal.profit + sign * self._coin) / per_lot for sign in (-1, 1))
            low, high = sorted(ends)
            first = bisect_left(openings, low, key=lambda opening: opening.deal.price)
            last = bisect_right(openings, high, key=lambda opening: opening.deal.price)
        fits = [
            place
            for place in range(first, last)
            if openings[place].deal.time <= deal.time
            and money.profit(side, closing.lots, openings[place].deal.price, deal.price, self._coin) == deal.profit
        ]
        return sorted(fits, key=lambda place: (openings[place].deal.time, openings[place].deal.deal))

    def _take(self, side: Side, opening: _Opening, closing: _Closing, doubts: set[int] | None) -> None:
        opening.left -= closing.lots
        self._positions.append(_position(side, opening, closing))
        if doubts is None:
            self._decided += 1
        else:
            doubts.add(opening.ticket)

    def _pair_rest(self, book: _Book, closing: _Closing, money: Money) -> None:
        deal = closing.deal
        candidates = [opening for opening in book.openings if opening.left and opening.deal.time <= deal.time]
        if not candidates or not closing.lots:
            self._unmatched.append(deal)
            return
        whole = sorted((o for o in candidates if o.left >= closing.lots), key=lambda o: o.deal.price)
        exact = [whole[place] for place in self._takes(book.side, whole, closing, money)]
        if exact:
            self._take(book.side, exact[0], closing, self._ambiguous if len(exact) > 1 else None)
        elif whole:
            nearest = min(
                whole,
                key=lambda o: abs(money.profit(book.side, closing.lots, o.deal.price, deal.price, self._coin) - deal.profit),
            )
            self._take(book.side, nearest, closing, self._guessed)
        else:
            self._spread(book, candidates, closing, money)

    def _spread(self, book: _Book, candidates: Sequence[_Opening], closing: _Closing, money: Money) -> None:
        """Close several openings with one closing, first in, first out, as on a netting account."""
        deal, rest, profit = closing.deal, closing.lots, closing.deal.profit
        for opening in candidates:
            lots = min(rest, opening.left)
            rest -= lots
            last = not rest or opening is candidates[-1]
            own = profit if last else money.profit(book.side, lots, opening.deal.price, deal.price, self._coin)
            profit -= own
            part = lots / closing.lots
            split = msgspec.structs.replace(
                deal, lots=lots, profit=own, swap=deal.swap * part, commission=deal.commission * part, fee=deal.fee * part
            )
            self._take(book.side, opening, _Closing(deal=split, lots=lots), self._guessed)
            if not rest:
                return
        self._unmatched.append(msgspec.structs.replace(deal, lots=rest, profit=ZERO, swap=ZERO, commission=ZERO, fee=ZERO))


def _position(side: Side, opening: _Opening, closing: _Closing) -> ExportPosition:
    opened, closed = opening.deal, closing.deal
    costs = (opened.commission + opened.fee) * closing.lots / opened.lots + (
        closed.commission + closed.fee
    ) * closing.lots / closed.lots
    return ExportPosition(
        position=opening.ticket,
        symbol=opened.symbol,
        side=side,
        lots=closing.lots,
        open_time=opened.time,
        open_price=opened.price,
        close_time=closed.time,
        close_price=closed.price,
        commission=costs,
        swap=closed.swap,
        profit=closed.profit,
        row=opened.row,
    )


def match_all(graph: Sequence[Sequence[int]], places: int) -> list[int | None]:
    """Give as many nodes as possible a place of their own, of those each may take, its first choices first."""
    taken: list[int | None] = [None] * places
    matching: list[int | None] = [None] * len(graph)
    for start in range(len(graph)):
        came: dict[int, int] = {}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for place in graph[node]:
                if place in came:
                    continue
                came[place] = node
                if (owner := taken[place]) is None:
                    _shift(matching, taken, came, place)
                    queue.clear()
                    break
                queue.append(owner)
    return matching


def _shift(matching: list[int | None], taken: list[int | None], came: dict[int, int], free: int) -> None:
    """Let every node on the way to the free place move one place on."""
    place: int | None = free
    while place is not None:
        node = came[place]
        taken[place] = node
        place, matching[node] = matching[node], place


def swappable(graph: Sequence[Sequence[int]], matching: Sequence[int | None], places: int) -> set[int]:
    """Return the nodes that another matching of the same size may place elsewhere; never too few, at times some too many."""
    owner: list[int | None] = [None] * places
    for node, place in enumerate(matching):
        if place is not None:
            owner[place] = node
    onward: dict[int, set[int]] = {node: set() for node in range(len(graph))}
    back: dict[int, set[int]] = {node: set() for node in range(len(graph))}
    to_free: set[int] = set()
    for node, choices in enumerate(graph):
        for place in choices:
            other = owner[place]
            if other is None:
                to_free.add(node)
            elif other != node:
                onward[node].add(other)
                back[other].add(node)
    homeless = {node for node, place in enumerate(matching) if place is None}
    unsure = _reached(to_free, back) | _reached(homeless, onward)
    circling = set(onward)
    ends = [node for node in circling if not onward[node] or not back[node]]
    while ends:
        node = ends.pop()
        if node in circling:
            circling.discard(node)
            for ahead, behind in ((onward, back), (back, onward)):
                for other in ahead[node]:
                    behind[other].discard(node)
                    if not behind[other]:
                        ends.append(other)
    return (unsure | circling) - homeless


def _reached(start: set[int], edges: dict[int, set[int]]) -> set[int]:
    reached, queue = set(start), list(start)
    while queue:
        for other in edges[queue.pop()] - reached:
            reached.add(other)
            queue.append(other)
    return reached
