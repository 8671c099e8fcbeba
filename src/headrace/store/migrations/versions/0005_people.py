"""People who log in, their sessions, and the audit log that nobody can rewrite."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.add_column("users", sa.Column("role", sa.Text, nullable=False, server_default="member"))
    op.add_column("users", _text("name"))
    op.add_column("users", sa.Column("account", sa.Text, nullable=True))
    op.add_column("users", sa.Column("disabled_s", sa.BigInteger, nullable=True))
    op.create_index("users_by_account", "users", ["account"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False, unique=True),
        sa.Column("user", sa.Text, sa.ForeignKey("users.id"), nullable=False),
        *map(_number, ("created_s", "expires_s")),
        sa.Column("revoked_s", sa.BigInteger, nullable=True),
    )
    op.create_index("sessions_by_user", "sessions", ["user"])
    op.create_table(
        "logins",
        sa.Column("state_sha256", sa.Text, primary_key=True),
        _text("next"),
        _number("expires_s"),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True),
        _number("at_s"),
        *map(
            _text,
            ("actor", "role", "via", "request", "action", "subject", "org", "team", "detail"),
        ),
    )
    op.create_index("audit_by_org", "audit", ["org", "team"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'the audit log is append-only'; END$$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
