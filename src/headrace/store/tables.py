"""The tables, for queries; `migrations` makes them. Money is in nano-dollars.

    orgs ─< teams ─< users ─< keys             who asks; a key may go without a user
                     users ─< sessions         people who are logged in; `logins` are under way
    audit                                      who changed what, when; append-only
    limits ─< windows ─< leases >─ workers     what may be spent, and which worker may spend it now
    transactions ─< postings                   what was spent; append-only, in double entry
    files ─< file_chunks                       what clients uploaded and batches made
    batches ─< batch_lines                     what runs in idle capacity, and how far it is
    transactions ─< legs                       and for which calls, where there were several
    bills ─< postings                          what providers say of the same
    holds                                      reservations that outlived a flush
    responses                                  answers that a client may come back to

Times are Unix seconds. Invariants: `windows.leased` is the sum of its live leases, `windows.lost`
of its lost ones, `windows.spent` of what the transactions that name it used; postings of a
transaction sum to zero. `headrace ledger verify` checks them all.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER key


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    _number("value"),
)
"""`revision`: counts changes that a cache of keys, limits or prices must see."""

orgs = Table(
    "orgs",
    metadata,
    Column("id", Text, primary_key=True),
    _number("created_s"),
)
teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, ForeignKey("orgs.id"), nullable=False),
    _number("created_s"),
)
users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, ForeignKey("orgs.id"), nullable=False),
    Column("team", Text, ForeignKey("teams.id"), nullable=False),
    _number("created_s"),
    Column("role", Text, nullable=False, server_default="member"),
    _text("name"),
    Column("account", Text, nullable=True),
    Column("disabled_s", BigInteger, nullable=True),
    Index("users_by_account", "account", unique=True),
)
"""`account`: issuer and subject of whoever logs in under this name; null = nobody has yet."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False, unique=True),
    Column("user", Text, ForeignKey("users.id"), nullable=False),
    _number("created_s"),
    _number("expires_s"),
    Column("revoked_s", BigInteger, nullable=True),
    Index("sessions_by_user", "user"),
)
"""What a session may do is what its user may do now."""

logins = Table(
    "logins",
    metadata,
    Column("state_sha256", Text, primary_key=True),
    _text("next"),
    _number("expires_s"),
)
"""Log-ins that are under way; a row is taken by the first callback that names its state."""

audit = Table(
    "audit",
    metadata,
    Column("id", _ID, primary_key=True),
    _number("at_s"),
    _text("actor"),
    _text("role"),
    _text("via"),
    _text("request"),
    _text("action"),
    _text("subject"),
    _text("org"),
    _text("team"),
    _text("detail"),
    Index("audit_by_org", "org", "team"),
)
"""`org` and `team`: whose the subject is. Triggers refuse UPDATE and DELETE."""

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False, unique=True),
    _text("prefix"),
    _text("name"),
    Column("org", Text, ForeignKey("orgs.id"), nullable=False),
    Column("team", Text, ForeignKey("teams.id"), nullable=False),
    Column("user", Text, ForeignKey("users.id"), nullable=True),
    _text("role"),
    _text("models"),
    _text("routes"),
    _text("features"),
    _text("data_class"),
    _number("created_s"),
    Column("expires_s", BigInteger, nullable=True),
    Column("revoked_s", BigInteger, nullable=True),
    Column("previous_sha256", Text, nullable=True, unique=True),
    Column("previous_until_s", BigInteger, nullable=True),
)
"""`models`, `routes`, `features`: comma-separated; empty = all."""

limits = Table(
    "limits",
    metadata,
    Column("id", _ID, primary_key=True),
    _text("scope"),
    _text("subject"),
    _text("unit"),
    _text("window"),
    _text("zone"),
    _number("amount"),
    _number("created_s"),
    UniqueConstraint("scope", "subject", "unit", "window"),
    CheckConstraint("amount >= 0"),
)
windows = Table(
    "windows",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("limit_id", _ID, ForeignKey("limits.id", ondelete="CASCADE"), nullable=False),
    _number("starts_s"),
    _number("ends_s"),
    _number("spent"),
    _number("leased"),
    _number("lost"),
    UniqueConstraint("limit_id", "starts_s"),
    CheckConstraint("spent >= 0 AND leased >= 0 AND lost >= 0"),
)
workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    _number("expires_s"),
    _text("state"),
)
"""`state`: live, or lost where its lease ran out."""

leases = Table(
    "leases",
    metadata,
    Column("worker", Text, ForeignKey("workers.id"), primary_key=True),
    Column("window_id", _ID, ForeignKey("windows.id", ondelete="CASCADE"), primary_key=True),
    _number("amount"),
    Column("lost", Boolean, nullable=False),
    CheckConstraint("amount >= 0"),
)
holds = Table(
    "holds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("worker", Text, ForeignKey("workers.id"), nullable=False),
    _text("record"),
)
"""`record`: the hold as `headrace.store.entries` writes it."""

transactions = Table(
    "transactions",
    metadata,
    Column("id", Text, primary_key=True),
    _text("kind"),
    _number("at_s"),
    _text("org"),
    _text("team"),
    _text("user"),
    _text("key"),
    _text("feature"),
    _text("model"),
    _text("route"),
    _text("finish"),
    _text("batch"),
    _number("prompt_tokens"),
    _number("cached_tokens"),
    _number("cache_write_tokens"),
    _number("completion_tokens"),
    _number("reasoning_tokens"),
    _number("cost_nanousd"),
    _number("held_nanousd"),
    _text("price_hash"),
    _text("charges"),
    _text("provider"),
    _text("upstream"),
    _text("cache"),
    _number("estimated"),
    _number("compute_us"),
    _number("kv_byte_s"),
    _number("calls"),
    Index("transactions_by_time", "at_s"),
)
"""`charges`: `window:used` pairs, comma-separated. `provider` and `upstream` are of the only call
of a provider; where `calls` says that there were several, each is in `legs`, and the counts are
sums."""

legs = Table(
    "legs",
    metadata,
    Column("transaction_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    _text("provider"),
    _text("upstream"),
    _text("outcome"),
    _number("estimated"),
    _number("prompt_tokens"),
    _number("cached_tokens"),
    _number("cache_write_tokens"),
    _number("completion_tokens"),
    _number("reasoning_tokens"),
    _number("compute_us"),
    _number("kv_byte_s"),
    _number("cost_nanousd"),
)

postings = Table(
    "postings",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("transaction_id", Text, nullable=False),
    _text("account"),
    _number("amount_nanousd"),
)
bills = Table(
    "bills",
    metadata,
    Column("id", Text, primary_key=True),
    _text("provider"),
    _text("upstream"),
    _number("day"),
    _text("request"),
    _number("prompt_tokens"),
    _number("cached_tokens"),
    _number("cache_write_tokens"),
    _number("completion_tokens"),
    _number("cost_nanousd"),
    Column("priced", Boolean, nullable=False),
    _number("variance_nanousd"),
    _number("at_s"),
)
"""A provider's own account of a day, or of one request: its latest word. `priced`: it named money,
else its tokens were priced here; `variance_nanousd`: how much of it is posted beyond our books."""

alerts = Table(
    "alerts",
    metadata,
    Column("limit_id", _ID, ForeignKey("limits.id", ondelete="CASCADE"), primary_key=True),
    Column("starts_s", BigInteger, primary_key=True, autoincrement=False),
    Column("rule", Text, primary_key=True),
    _number("at_s"),
)
"""What was said of a window: each rule once."""

answers = Table(
    "answers",
    metadata,
    Column("id", Text, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _text("route"),
    _text("release"),
    _number("created_s"),
    _number("expires_s"),
    _number("size_bytes"),
    Column("body", LargeBinary, nullable=False),
    Index("answers_by_end", "expires_s"),
    Index("answers_by_team", "org", "team", "created_s"),
)
"""Kept answers (`headrace.gateway.caching`); `id` is the hash of all that an answer depends on, the
team included."""

prices = Table(
    "prices",
    metadata,
    Column("id", _ID, primary_key=True),
    _text("model"),
    _number("effective_s"),
    _number("input_nanousd"),
    _number("cached_nanousd"),
    _number("output_nanousd"),
    UniqueConstraint("model", "effective_s"),
)
"""Overrides; nano-dollars a million tokens."""

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _number("created_s"),
    _text("purpose"),
    _text("filename"),
    _number("size_bytes"),
    Column("expires_s", BigInteger, nullable=True),
    Index("files_by_team", "org", "team", "created_s"),
)
"""A file is there when its row is; `headrace.store.blobs` keeps the contents."""

file_chunks = Table(
    "file_chunks",
    metadata,
    Column("file", Text, primary_key=True),
    Column("at", Integer, primary_key=True),
    _number("created_s"),
    Column("data", LargeBinary, nullable=False),
)
"""Contents on PostgreSQL, written before the file's row; on SQLite they are in a directory."""

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _text("feature"),
    _number("created_s"),
    _text("endpoint"),
    _text("input_file"),
    _text("metadata"),
    Column("output_ttl_s", BigInteger, nullable=True),
    _text("state"),
    _text("outcome"),
    _text("errors"),
    _text("model"),
    _text("output_file"),
    _text("error_file"),
    _number("total"),
    _number("completed"),
    _number("failed"),
    _number("prompt_tokens"),
    _number("cached_tokens"),
    _number("completion_tokens"),
    _number("reasoning_tokens"),
    _number("expires_s"),
    Column("in_progress_s", BigInteger, nullable=True),
    Column("finalizing_s", BigInteger, nullable=True),
    Column("completed_s", BigInteger, nullable=True),
    Column("failed_s", BigInteger, nullable=True),
    Column("expired_s", BigInteger, nullable=True),
    Column("cancelling_s", BigInteger, nullable=True),
    Column("cancelled_s", BigInteger, nullable=True),
    _text("owner"),
    _number("lease_until_s"),
    Index("batches_by_team", "org", "team", "created_s"),
    Index("batches_by_state", "state"),
)
"""`state` is the API's status; `outcome` the state that follows finalizing; counts and tokens are
of a batch that has ended, before that its lines have them; `metadata` and `errors` are JSON."""

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch", Text, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _number("created_s"),
    _text("custom_id"),
    _number("start"),
    _number("size"),
    _text("state"),
    _number("attempt"),
    _number("failures"),
    _number("not_before_s"),
    _text("owner"),
    _number("lease_until_s"),
    _text("result"),
    _number("prompt_tokens"),
    _number("cached_tokens"),
    _number("completion_tokens"),
    _number("reasoning_tokens"),
    Index("batch_lines_by_state", "batch", "state", "line"),
)
"""One request: bytes `start` to `start + size` of the input file; `state` is waiting, running,
completed or failed; `result` the line it becomes in the output or error file. Gone when the batch
has ended."""

responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _number("created_s"),
    Column("expires_s", BigInteger, nullable=True),
    _text("previous"),
    _number("size_bytes"),
    _text("input"),
    _text("body"),
    Index("responses_by_team", "org", "team", "created_s"),
    Index("responses_by_expiry", "expires_s"),
)
"""`previous`: the id of the response that it continues, or empty. `input`, `body`: JSON."""
