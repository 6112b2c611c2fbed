"""What docs/gateways.md says of every kind of account, against what its gateways offer once they are open."""

import re
from pathlib import Path

import pytest

from copier.model import MarginMode
from tests.gateways.conftest import KINDS, Scene, Stage

TEXT = (Path(__file__).resolve().parent.parent.parent / "docs" / "gateways.md").read_text(encoding="utf-8")
OFFERS = {
    "deal history": "deals",
    "symbol catalogue": "symbols",
    "calls when something changes": "wakes",
    "pending orders": "pending_orders",
    "bars": "bars",
}
MODELS = {MarginMode.HEDGING: "hedging", MarginMode.NETTING: "netting", MarginMode.MT4: "MT4"}
COLUMN = {"paper": "paper", "mt5": "mt5", "mt5-process": "mt5", "mt5-manager": "mt5-manager"}


def table(head: str) -> dict[str, dict[str, str]]:
    """Return the table whose head begins so: row by row, what each column says."""
    lines = TEXT.split(f"\n| {head}")[1].split("\n\n")[0].splitlines()
    names = [cell.strip().strip("`") for cell in lines[0].strip(" |").split("|")]
    rows = {}
    for line in lines[2:]:
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[first.strip("`")] = dict(zip(names, cells, strict=True))
    return rows


def name_of(stage: Stage) -> str:
    return next(name for name, kind in KINDS.items() if kind is stage.kind)


def test_the_table_says_of_every_kind_what_it_offers(stage: Stage) -> None:
    name = name_of(stage)
    if name == "frames":
        pytest.skip("no kind of account: the frames alone")
    column = "bridge" if name.startswith("bridge-") else COLUMN[name]
    said = table("|")

    async def act(scene: Scene) -> None:
        for row, attribute in OFFERS.items():
            offered = getattr(scene.gateway, attribute, None) is not None
            assert said[row][column].startswith("yes" if offered else "no"), (row, column, said[row][column])

    stage.play(act)
    assert MODELS[stage.mode] in said["account models"][column]
    assert ("magic" in stage.kind.can) == (not said["magic number"][column].startswith("no"))
    assert ("tags" in stage.kind.can) == (not said["tags come back"][column].startswith("no"))


def test_every_way_of_the_bridge_stands_in_its_table_exactly_where_it_is_held_to_the_promises() -> None:
    said = table("`bridge`")
    tried = {tuple(name.split("-")[1:]) for name in KINDS if name.startswith("bridge-")}
    for way, row in said.items():
        for platform, cell in row.items():
            key = {"MetaTrader 5": "mt5", "MetaTrader 4": "mt4"}.get(platform)
            if key:
                named = re.fullmatch(r"yes|no|no: .*|yes, .*", cell)
                assert named, (way, platform, cell)
                assert cell.startswith("yes") == ((key, way) in tried), (way, platform, cell)
    assert {way for _, way in tried} == set(said)
