"""What a run of many histories has shown, as a page."""

from collections import Counter
from collections.abc import Mapping, Sequence

from tests.simulation.play import Outcome


def page(command: str, outcomes: Sequence[Outcome], swept: Sequence[Outcome] = ()) -> str:
    """Return the numbers of a run, and of a sweep over every await where there was one, as Markdown."""
    lines = [
        "# Simulated histories in numbers",
        "",
        "Written by the run itself; what it plays and judges stands in [reliability.md](reliability.md).",
        "",
        "```",
        command,
        "```",
    ]
    if outcomes:
        lines += _histories(outcomes)
    if swept:
        deaths = {
            "places to die": len(swept),
            "violations": sum(bool(o.wrong) for o in swept),
            "copies": sum(o.copied for o in swept),
        }
        lines += ["", "Fixed lives, killed once before every step of every role:", "", *_table(("what", "how many"), deaths)]
    wrong = [f"- seed {outcome.seed}: {'; '.join(outcome.wrong[:3])}" for outcome in (*outcomes, *swept) if outcome.wrong]
    if wrong:
        lines += ["", "Still wrong:", "", *wrong]
    return "\n".join(lines) + "\n"


def _histories(outcomes: Sequence[Outcome]) -> list[str]:
    hurts: Counter[str] = sum((outcome.hurts for outcome in outcomes), Counter())
    pairs: Counter[str] = sum((outcome.pairs for outcome in outcomes), Counter())
    totals: dict[str, int | str] = {
        "histories": len(outcomes),
        "seeds": f"{outcomes[0].seed} to {outcomes[-1].seed}",
        "violations": sum(bool(outcome.wrong) for outcome in outcomes),
        "kills": sum(outcome.kills for outcome in outcomes),
        "freezes": sum(outcome.freezes for outcome in outcomes),
        "other faults": sum(outcome.faults for outcome in outcomes),
        "copies": sum(outcome.copied for outcome in outcomes),
        "steps taken, each a place to die": sum(outcome.points for outcome in outcomes),
    }
    return [
        "",
        *_table(("what", "how many"), totals),
        "",
        "Relations, by account models:",
        "",
        *_table(("master to follower", "relations"), dict(sorted(pairs.items()))),
        "",
        "What went wrong on purpose:",
        "",
        *_table(("fault", "times"), dict(sorted(hurts.items()))),
    ]


def _table(head: tuple[str, str], rows: Mapping[str, int | str]) -> list[str]:
    shown = [f"| {name} | {f'{value:,}' if isinstance(value, int) else value} |" for name, value in rows.items()]
    return [f"| {head[0]} | {head[1]} |", "|---|---:|", *shown]
