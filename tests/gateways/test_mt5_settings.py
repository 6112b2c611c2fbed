"""What a trader may set of a MetaTrader 5 terminal, and what is refused before anything trades."""

import pytest

from copier import settings
from copier.errors import SettingsError

TWO = """
accounts:
  one: {{kind: mt5, login: 1, server: B, path: 'C:\\T\\one\\terminal64.exe', password: {{env: ONE}}}}
  two: {{kind: mt5, login: 2, server: B, path: '{path}'}}
"""


def test_two_accounts_do_not_share_a_terminal() -> None:
    text = TWO.format(path="c:/t/ONE/terminal64.exe")
    with pytest.raises(SettingsError, match=r"accounts.two.path: the terminal of account one already"):
        settings.parse(text, {"ONE": "planted-secret"})


def test_accounts_with_terminals_of_their_own_are_read_and_their_passwords_never_shown() -> None:
    loaded = settings.parse(TWO.format(path="C:\\T\\two\\terminal64.exe"), {"ONE": "planted-secret"})
    one = loaded.accounts["one"]
    assert isinstance(one, settings.Mt5Settings)
    assert one.password is not None
    assert one.password.get_secret_value() == "planted-secret"
    assert "planted-secret" not in repr(loaded)
    assert "planted-secret" not in str(settings.redacted(loaded))
