"""The command line: every command reads its settings, does one thing, and says clearly what is wrong."""

import contextlib
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from copier import __version__
from copier.errors import CopierError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from copier.app import Role
    from copier.looking import Answer
    from copier.settings import Settings

T = TypeVar("T")
PIPED_WIDTH = 120
"""How wide tables are where nobody says how wide a line may be: in a pipe or a file."""

app = typer.Typer(
    name="mt-copier",
    help="Copies a MetaTrader account's positions to other accounts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
symbols = typer.Typer(help="What symbols are called at the followers.", no_args_is_help=True)
app.add_typer(symbols, name="symbols")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file with the settings.")]
Json = Annotated[bool, typer.Option("--json", help="For machines: JSON instead of tables.")]
Scope = Annotated[str, typer.Argument(help="`*`, a follower, follower/master, or group:name.")]


def main() -> None:
    """Run the command line; exit 2 for settings that cannot be used, 1 for other errors."""
    try:
        app()
    except SettingsError as error:
        _fail(str(error), 2)
    except (CopierError, OSError) as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"mt-copier: {message}\n")
    sys.exit(code)


@app.callback(invoke_without_command=True)
def version(*, show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Copies a MetaTrader account's positions to other accounts: exactly once, explained, replayable, measured."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


# Running ---------------------------------------------------------------------------------------------------------------


@app.command()
def demo(*, as_json: Json = False) -> None:
    """Show it: a master and three followers on simulated brokers, half a minute, nothing needed, nothing left behind."""
    from copier.demo import as_json as end_as_json
    from copier.running import run_demo

    end = _async(run_demo(_view_kind(as_json=as_json)))
    if as_json:
        typer.echo(end_as_json(end).decode())
    if not end.good:
        raise typer.Exit(1)


@app.command()
def run(config: Config, *, as_json: Json = False) -> None:
    """Watch every master and follow with every follower, in this one process."""
    from copier.app import Everything

    _run(config, lambda _: Everything(), as_json=as_json)


@app.command()
def watch(
    config: Config,
    masters: Annotated[list[str], typer.Argument(metavar="MASTER...", help="Which master, or which ones.")],
    *,
    as_json: Json = False,
) -> None:
    """Only watch a master, or some; followers run in other processes, over Redis."""
    from copier.app import Watch

    _run(config, lambda _: Watch(tuple(dict.fromkeys(masters))), as_json=as_json)


@app.command()
def follow(
    config: Config,
    *,
    name: Annotated[str, typer.Option("--name", "--worker", help="This worker's name, its own among all workers.")],
    only: Annotated[str, typer.Option(metavar="NAMES", help="Pin these followers to this worker, such as `bob,carol`.")] = "",
    as_json: Json = False,
) -> None:
    """Only follow, sharing the followers with all other workers; masters are watched by other processes, over Redis."""
    from copier.app import Follow

    pinned = tuple(filter(None, (each.strip() for each in only.split(","))))
    _run(config, lambda _: Follow(name, pinned), as_json=as_json)


def _run(config: Path, role: "Callable[[Settings], Role]", *, as_json: bool) -> None:
    from copier.running import run_app
    from copier.settings import load

    settings = load(config)
    _async(run_app(settings, role(settings), _view_kind(as_json=as_json)))


@app.command()
def check(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="The YAML file with the settings.")] = None,
    *,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the settings instead.")] = False,
    as_json: Json = False,
) -> None:
    """Find every mistake in the settings at once, each with its place."""
    from copier.settings import json_schema, load

    if schema:
        _json(json_schema())
        return
    if config is None:
        raise typer.BadParameter("expected a CONFIG to check, or --schema")
    try:
        settings = load(config)
    except SettingsError as error:
        if not as_json:
            raise
        _json({"good": False, "problems": error.problems})
        raise typer.Exit(2) from None
    counts = {"accounts": len(settings.accounts), "masters": len(settings.masters), "followers": len(settings.followers)}
    if as_json:
        _json({"good": True, **counts})
    else:
        typer.echo(f"{config}: good. " + ", ".join(f"{count} {noun}" for noun, count in counts.items()))


@app.command()
def doctor(
    config: Config,
    *,
    trade_test: Annotated[
        str, typer.Option("--trade-test", metavar="SYMBOL", help="Also trade the smallest volume of this, on a demo account.")
    ] = "",
    account: Annotated[str, typer.Option("--account", metavar="NAME", help="Where to try trading.")] = "",
    as_json: Json = False,
) -> None:
    """Look at every account and relation, and say what is wrong and what mends it; exit 1 if anything must be mended."""
    from copier.doctor import command, told

    diagnosis = _async(command(config, symbol=trade_test, account=account))
    if as_json:
        _json({"good": diagnosis.good, "diagnosis": diagnosis})
    else:
        for line in told(diagnosis):
            typer.echo(line)
    if not diagnosis.good:
        raise typer.Exit(1)


@app.command()
def replay(
    exports: Annotated[
        list[Path], typer.Argument(metavar="EXPORT...", help="What MetaTrader saved: deals, positions, a report.")
    ],
    *,
    config: Annotated[Path | None, typer.Option(help="The settings to replay with; without them one to one.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for the results.")],
    as_json: Json = False,
) -> None:
    """Copy a saved history through the engine, on a virtual clock, and report what each follower would have got."""
    from copier.replay import command

    if not as_json:
        command(exports, config, out, progress=sys.stderr.isatty() or sys.stdout.isatty())
        return
    with contextlib.redirect_stdout(sys.stderr):
        summary = command(exports, config, out, progress=False)
    _json(summary)


# Looking ---------------------------------------------------------------------------------------------------------------


@app.command()
def status(config: Config, *, as_json: Json = False) -> None:
    """Show every follower: what is open, what is in trouble, what was set."""
    from copier import looking

    _show(looking.status(_load(config)), as_json=as_json)


@app.command()
def accounts(config: Config, *, as_json: Json = False) -> None:
    """Show every account's newest recorded balance and equity."""
    from copier import looking

    _show(looking.accounts(_load(config)), as_json=as_json)


@app.command()
def positions(config: Config, *, as_json: Json = False) -> None:
    """Show which position of a master stands behind which position of a follower."""
    from copier import looking

    _show(looking.positions(_load(config)), as_json=as_json)


@app.command()
def receipts(
    config: Config,
    *,
    follower: Annotated[str | None, typer.Option(help="Only of this follower.")] = None,
    symbol: Annotated[str | None, typer.Option(help="Only of this symbol.")] = None,
    code: Annotated[str | None, typer.Option(help="Only with this code, such as spread_above_max.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many at most, the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show why changes were or were not copied."""
    from copier import looking

    chosen = looking.Chosen(follower=follower, symbol=symbol, code=code, last=last)
    _show(looking.receipts(_load(config), chosen), as_json=as_json)


@app.command()
def alerts(
    config: Config,
    *,
    last: Annotated[int, typer.Option(min=1, help="How many at most, the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what the watchdogs found: what stands, and what is over."""
    from copier import looking

    _show(looking.alerts(_load(config), last), as_json=as_json)


@app.command()
def audit(
    config: Config,
    *,
    last: Annotated[int, typer.Option(min=1, help="How many entries to show at most, the newest.")] = 20,
    expect: Annotated[str, typer.Option(metavar="SEQ:HASH", help="A head noted earlier, which must still be in the list.")] = "",
    as_json: Json = False,
) -> None:
    """Show which settings were loaded and which controls given, by whom, and verify that nobody changed the list; else exit 1."""
    from copier import looking

    answer = _async(looking.audit(_load(config), last, expect))
    _print(answer, as_json=as_json)
    if not answer.data["good"]:
        raise typer.Exit(1)


@app.command()
def shadow(config: Config, *, as_json: Json = False) -> None:
    """Compare what relations in mode `shadow` would have done with what the live ones did."""
    from copier import looking

    _show(looking.shadow(_load(config)), as_json=as_json)


@symbols.command()
def missing(config: Config, *, as_json: Json = False) -> None:
    """Show which symbols of the masters have no place at a follower, and what to set."""
    from copier import looking

    _show(looking.missing_symbols(_load(config)), as_json=as_json)


# Steering --------------------------------------------------------------------------------------------------------------


@app.command()
def pause(config: Config, scope: Scope, *, as_json: Json = False) -> None:
    """Open nothing more; closes, reductions and levels go on."""
    _set(config, scope, "close_only", "opens nothing more; closes and protection go on", as_json=as_json)


@app.command()
def resume(config: Config, scope: Scope, *, as_json: Json = False) -> None:
    """Copy again after pause, freeze or flatten."""
    _set(config, scope, "live", "copies again", as_json=as_json)


@app.command()
def freeze(config: Config, scope: Scope, *, as_json: Json = False) -> None:
    """Do nothing at all, not even closes; says what stays open."""
    from copier import looking

    _set(config, scope, "frozen", "does nothing at all now, closes included", as_json=as_json)
    left = _async(looking.left_open(_load(config), scope))
    if left and not as_json:
        typer.echo("These stay open whatever the master does, until `mt-copier resume`:", err=True)
        for line in left:
            typer.echo(f"  {line}", err=True)


@app.command()
def release(config: Config, master: Annotated[str, typer.Argument(help="Which master.")], *, as_json: Json = False) -> None:
    """Confirm that a master's missing positions are really closed, where so many vanished at once that it was not believed."""
    settings = _load(config)
    if master not in settings.masters:
        raise SettingsError([f"master {master}: expected one of {', '.join(sorted(settings.masters))}"], source="command")
    _set(config, f"master:{master}", "release", "its missing positions count as closed", as_json=as_json)


@app.command()
def rearm(
    config: Config,
    follower: Annotated[str, typer.Argument(help="Which follower.")],
    limit: Annotated[str, typer.Argument(help="The name of the loss limit that has fired.")],
    *,
    as_json: Json = False,
) -> None:
    """Arm a loss limit that has fired again; its loss is measured anew from here."""
    settings = _load(config)
    if follower not in settings.followers:
        raise SettingsError([f"follower {follower}: expected one of {', '.join(sorted(settings.followers))}"], source="command")
    from copier.looking import limits_of

    names = sorted({each.name for each in limits_of(settings.followers[follower])})
    if limit not in names:
        raise SettingsError([f"limit {limit}: expected one of {', '.join(names) or 'none, it has no limits'}"], source="command")
    _set(config, f"{follower}:{limit}", "rearm", "the limit is armed again", as_json=as_json)


@app.command()
def flatten(
    config: Config,
    scope: Scope,
    *,
    direct: Annotated[
        bool, typer.Option("--direct", help="Open the accounts and close right here: when nothing else lives.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Close every copy and open nothing more, until `mt-copier resume`."""
    if not direct:
        _set(config, scope, "flatten", "closes every copy and opens nothing more", as_json=as_json)
        return
    from copier import flattening

    answer = _async(flattening.flatten(_load(config), scope, typer.echo if not as_json else lambda _: None))
    if as_json:
        _json(answer)
    if answer.failed:
        raise typer.Exit(1)


def _set(config: Path, scope: str, control: str, meaning: str, *, as_json: bool) -> None:
    from copier import looking

    _async(looking.set_control(_load(config), scope, control))
    if as_json:
        _json({"scope": scope, "control": control})
    else:
        typer.echo(f"{scope}: {meaning}")


@app.command("redis-acl")
def redis_acl(
    config: Config,
    *,
    out: Annotated[Path, typer.Option(help="The folder for users.acl and each user's address; it is made.")],
    at: Annotated[str, typer.Option(metavar="URL", help="Where Redis is; without it as in the settings.")] = "",
    worker: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:FOLLOWER,...]", help="A worker and its followers; none named is all.")
    ] = None,
) -> None:
    """Make a Redis user for every role, with a password of its own and no right that the role does not need."""
    from copier import redis_access

    settings = _load(config)
    where = at or settings.redis.get_secret_value()
    if not where.startswith(("redis://", "rediss://")):
        raise SettingsError(["--at: expected where Redis is, such as rediss://redis.example:6380/0"], source="command")
    workers = {name: [f for f in names.split(",") if f] for name, _, names in (each.partition(":") for each in worker or ())}
    for path in redis_access.write(redis_access.redis_users(settings, workers), where, out):
        typer.echo(str(path))


# Around ----------------------------------------------------------------------------------------------------------------


def _load(config: Path) -> "Settings":
    from copier.settings import load

    return load(config)


def _async(main: Coroutine[Any, Any, T]) -> T:
    from copier.clock import run

    return run(main)


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)


def _view_kind(*, as_json: bool) -> str:
    return "json" if as_json else "live" if sys.stdout.isatty() else "plain"


def _show(view: "Coroutine[Any, Any, Any]", *, as_json: bool) -> None:
    """Print an answer: its data for machines, its picture for people."""
    _print(_async(view), as_json=as_json)


def _print(answer: "Answer", *, as_json: bool) -> None:
    if as_json:
        _json(answer.data)
    else:
        console = _console()
        for part in answer.pictures():
            console.print(part)


def _json(data: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


if __name__ == "__main__":
    main()
