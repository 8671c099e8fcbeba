"""`[oidc]` and other lists in the settings: from TOML, the environment and --set, or an error."""

import socket
from pathlib import Path
from typing import Any, cast

import pytest

from headrace.app import serving
from headrace.config import Settings, load, with_value
from headrace.errors import ConfigError


def test_lists_come_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[oidc]\nroles = ["a=admin", "cn=x,dc=y=member"]\nscopes = ["email"]\n')
    environ = {"HEADRACE_OIDC_TEAMS": "eng=red, ops=blue", "HEADRACE_OIDC_SCOPES": "profile"}
    sets = ["oidc.scopes=openid,groups", "server.allowed_hosts=box.lan"]
    settings = load(file=file, sets=sets, environ=environ)
    assert settings.oidc.roles == ("a=admin", "cn=x,dc=y=member")
    assert settings.oidc.teams == ("eng=red", "ops=blue")
    assert settings.oidc.scopes == ("openid", "groups")
    assert settings.server.allowed_hosts == ("box.lan",)
    assert settings.origins["oidc.scopes"] == "--set"


@pytest.mark.parametrize("value", ["[1]", "3", "true", '[["a"]]'])
def test_what_is_no_list_of_strings_is_said(value: str, tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(f"[oidc]\nscopes = {value}\n")
    with pytest.raises(ConfigError, match=r"oidc\.scopes"):
        load(file=file, environ={})


class _Control:
    keys: Any = None
    database: Any = None
    changes: Any = None


@pytest.mark.parametrize(
    ("control", "host", "text"),
    [(None, "127.0.0.1", "--no-auth"), (_Control(), "127.0.0.1", "--no-auth")],
)
def test_nobody_logs_in_where_no_key_is_asked_for(control: Any, host: str, text: str) -> None:
    with socket.socket() as listener:
        listener.bind((host, 0))
        with pytest.raises(ConfigError, match=text):
            serving.people_door(_settings(), control, listener)


def test_the_address_that_browsers_have_must_be_known() -> None:
    control = _Control()
    control.keys = object()
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        with pytest.raises(ConfigError, match=r"oidc\.public_url"):
            serving.people_door(_settings(), cast("Any", control), listener)


def test_a_secret_is_never_in_the_settings_themselves() -> None:
    control = _Control()
    control.keys, control.database, control.changes = object(), object(), object()
    settings = with_value(_settings(), "oidc.client_secret", "hunter2", origin="--set")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="env:NAME") as raised:
            serving.people_door(settings, cast("Any", control), listener)
    assert "hunter2" not in raised.value.message


def _settings() -> Settings:
    settings = with_value(Settings(), "oidc.issuer", "https://login.example", origin="--set")
    return with_value(settings, "oidc.client_id", "x", origin="--set")
