"""What mends what: a gateway's words -> the click or setting, in a trader's words."""

from collections.abc import Iterable

from copier.settings import AccountSettings, Mt5ManagerSettings, Mt5Settings, PaperSettings

_BLOCKERS = (
    ("algo trading button", "click `Algo Trading` in the terminal's toolbar (Ctrl+E), so that it is green"),
    ("autotrading", "click `AutoTrading` in the terminal's toolbar (Ctrl+E), so that it is green"),
    (
        "python api",
        "in the terminal: Tools, Options, Expert Advisors: clear `Disable automatic trading via external Python API`",
    ),
    ("dll", "in the terminal: Tools, Options, Expert Advisors: tick `Allow DLL imports`, and again in the EA's own properties"),
    (
        "investor",
        "log the terminal in with the trading password: the investor password is read-only; if it is the trading password, "
        "ask the broker why trading is disabled",
    ),
    ("read-only", "ask the broker to make the account tradable"),
    ("disabled trading", "ask the broker why trading is disabled on this account"),
    ("account is disabled", "ask the broker why the account is disabled"),
    ("forbids automated", "ask the broker to allow Expert Advisors on this account, or use another account"),
    ("live trading", "in the EA's properties: tick `Allow Algo Trading` (MT4: `Allow live trading`)"),
    ("no connection", "look at the lower right corner of the terminal, and check server and network"),
)

_TROUBLES = (
    (
        "metatrader5 package cannot be imported",
        "`pip install MetaTrader5` with Python for Windows, or name that Python in `python`",
    ),
    ("mt5manager package cannot be imported", "`pip install MT5Manager` with 64-bit Python for Windows, or name it in `python`"),
    ("login refused", "correct `login`, `password` and `server`: the server's name is the one in the terminal's login window"),
    (
        "is logged in to",
        "in the terminal: File, Login to Trade Account: choose the account of the settings; or correct the settings",
    ),
    ("wrong manager login", "correct `manager` and `password`"),
    ("ip address", "ask the broker to allow this machine's address for the manager account"),
    ("is no manager", "ask the broker for a manager account; a trader's login is none"),
    ("allowed to see its group", "correct `login`, or ask the broker to let the manager see this login's group"),
    ("has not the right", "ask the broker to grant the manager account this right"),
    ("does not fit the package", "update the terminal and the MetaTrader5 package to the same generation"),
    ("could not be started", "correct `path`: the terminal64.exe of this account"),
    ("could not be used", "correct `path`: the terminal64.exe of this account; start it once by hand and log it in"),
    ("cannot be started", "correct `python`: a command that starts Python"),
    ("cannot connect to", "correct `address`, and check that a firewall lets this machine through"),
    ("speaks protocol", "update the older one of the two ends"),
    ("did not answer within", "check that the terminal is running and not showing a dialog that waits for a click"),
)


def blocker_advice(blocker: str) -> str:
    """Return what mends one blocker of trading."""
    return _first(_BLOCKERS, blocker) or "see the terminal's Journal and Experts tabs, or ask the broker"


def advice_for(message: str, settings: AccountSettings) -> str:
    """Return what mends that an account cannot be reached."""
    known = _first(_TROUBLES, message) or _first(_BLOCKERS, message)
    if known:
        return known
    match settings:
        case Mt5Settings(path=path):
            return f"check that {path or 'a terminal'} is running, logged in to {settings.login} at {settings.server}"
        case Mt5ManagerSettings():
            return f"check `address` {settings.address} and the manager account {settings.manager}"
        case PaperSettings():
            return "correct the account's settings"
        case _:
            return f"check that the far end of {settings.login} at {settings.server} is running"


def _first(table: Iterable[tuple[str, str]], text: str) -> str:
    lowered = text.lower()
    return next((mend for sign, mend in table if sign in lowered), "")
