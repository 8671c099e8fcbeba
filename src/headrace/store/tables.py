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
    deliveries                                 what webhooks brought, and its sync
    quotes, forgotten                          what quotes which documents, and which are gone

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


def text(name: str) -> Column[str]:
    """Empty where nothing is said."""
    return Column(name, Text, nullable=False, server_default="")


def number(name: str) -> Column[int]:
    """Zero where nothing is said."""
    return Column(name, BigInteger, nullable=False, server_default="0")


meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    number("value"),
)
"""`revision`: counts changes that a cache of keys, limits or prices must see."""

orgs = Table(
    "orgs",
    metadata,
    Column("id", Text, primary_key=True),
    number("created_s"),
)
teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, ForeignKey("orgs.id"), nullable=False),
    number("created_s"),
)
users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, ForeignKey("orgs.id"), nullable=False),
    Column("team", Text, ForeignKey("teams.id"), nullable=False),
    number("created_s"),
    Column("role", Text, nullable=False, server_default="member"),
    text("name"),
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
    number("created_s"),
    number("expires_s"),
    Column("revoked_s", BigInteger, nullable=True),
    Index("sessions_by_user", "user"),
)
"""What a session may do is what its user may do now."""

logins = Table(
    "logins",
    metadata,
    Column("state_sha256", Text, primary_key=True),
    text("next"),
    number("expires_s"),
)
"""Log-ins that are under way; a row is taken by the first callback that names its state."""

audit = Table(
    "audit",
    metadata,
    Column("id", _ID, primary_key=True),
    number("at_s"),
    text("actor"),
    text("role"),
    text("via"),
    text("request"),
    text("action"),
    text("subject"),
    text("org"),
    text("team"),
    text("detail"),
    Index("audit_by_org", "org", "team"),
)
"""`org` and `team`: whose the subject is. Triggers refuse UPDATE and DELETE."""

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False, unique=True),
    text("prefix"),
    text("name"),
    Column("org", Text, ForeignKey("orgs.id"), nullable=False),
    Column("team", Text, ForeignKey("teams.id"), nullable=False),
    Column("user", Text, ForeignKey("users.id"), nullable=True),
    text("role"),
    text("models"),
    text("routes"),
    text("features"),
    text("data_class"),
    number("created_s"),
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
    text("scope"),
    text("subject"),
    text("unit"),
    text("window"),
    text("zone"),
    number("amount"),
    number("created_s"),
    UniqueConstraint("scope", "subject", "unit", "window"),
    CheckConstraint("amount >= 0"),
)
windows = Table(
    "windows",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("limit_id", _ID, ForeignKey("limits.id", ondelete="CASCADE"), nullable=False),
    number("starts_s"),
    number("ends_s"),
    number("spent"),
    number("leased"),
    number("lost"),
    UniqueConstraint("limit_id", "starts_s"),
    CheckConstraint("spent >= 0 AND leased >= 0 AND lost >= 0"),
)
workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    number("expires_s"),
    text("state"),
)
"""`state`: live, or lost where its lease ran out."""

leases = Table(
    "leases",
    metadata,
    Column("worker", Text, ForeignKey("workers.id"), primary_key=True),
    Column("window_id", _ID, ForeignKey("windows.id", ondelete="CASCADE"), primary_key=True),
    number("amount"),
    Column("lost", Boolean, nullable=False),
    CheckConstraint("amount >= 0"),
)
holds = Table(
    "holds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("worker", Text, ForeignKey("workers.id"), nullable=False),
    text("record"),
)
"""`record`: the hold as `headrace.store.entries` writes it."""

transactions = Table(
    "transactions",
    metadata,
    Column("id", Text, primary_key=True),
    text("kind"),
    number("at_s"),
    text("org"),
    text("team"),
    text("user"),
    text("key"),
    text("feature"),
    text("model"),
    text("route"),
    text("finish"),
    text("batch"),
    number("prompt_tokens"),
    number("cached_tokens"),
    number("cache_write_tokens"),
    number("completion_tokens"),
    number("reasoning_tokens"),
    number("cost_nanousd"),
    number("held_nanousd"),
    text("price_hash"),
    text("charges"),
    text("provider"),
    text("upstream"),
    text("cache"),
    number("estimated"),
    number("compute_us"),
    number("kv_byte_s"),
    number("calls"),
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
    text("provider"),
    text("upstream"),
    text("outcome"),
    number("estimated"),
    number("prompt_tokens"),
    number("cached_tokens"),
    number("cache_write_tokens"),
    number("completion_tokens"),
    number("reasoning_tokens"),
    number("compute_us"),
    number("kv_byte_s"),
    number("cost_nanousd"),
)

postings = Table(
    "postings",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("transaction_id", Text, nullable=False),
    text("account"),
    number("amount_nanousd"),
)
bills = Table(
    "bills",
    metadata,
    Column("id", Text, primary_key=True),
    text("provider"),
    text("upstream"),
    number("day"),
    text("request"),
    number("prompt_tokens"),
    number("cached_tokens"),
    number("cache_write_tokens"),
    number("completion_tokens"),
    number("cost_nanousd"),
    Column("priced", Boolean, nullable=False),
    number("variance_nanousd"),
    number("at_s"),
)
"""A provider's own account of a day, or of one request: its latest word. `priced`: it named money,
else its tokens were priced here; `variance_nanousd`: how much of it is posted beyond our books."""

alerts = Table(
    "alerts",
    metadata,
    Column("limit_id", _ID, ForeignKey("limits.id", ondelete="CASCADE"), primary_key=True),
    Column("starts_s", BigInteger, primary_key=True, autoincrement=False),
    Column("rule", Text, primary_key=True),
    number("at_s"),
)
"""What was said of a window: each rule once."""

source_alerts = Table(
    "source_alerts",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ("org", "team", "name", "source")),
    Column("complete_s", BigInteger, primary_key=True, autoincrement=False),
    number("at_s"),
)
"""That an index is behind a source: said once of each state that it was left in."""

answers = Table(
    "answers",
    metadata,
    Column("id", Text, primary_key=True),
    text("org"),
    text("team"),
    text("key"),
    text("route"),
    text("release"),
    number("created_s"),
    number("expires_s"),
    number("size_bytes"),
    Column("body", LargeBinary, nullable=False),
    Index("answers_by_end", "expires_s"),
    Index("answers_by_team", "org", "team", "created_s"),
)
"""Kept answers (`headrace.gateway.caching`); `id` is the hash of all that an answer depends on, the
team included."""

quotes = Table(
    "quotes",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ("org", "team", "name", "document")),
    Column("request", Text, primary_key=True),
    Column("answer", Text, primary_key=True),
    text("batch"),
    number("created_s"),
    Index("quotes_by_request", "request"),
    Index("quotes_by_time", "created_s"),
)
"""Documents of indexes and what was made with them: a request (its trace, its stored response, its
line of a batch) or a kept answer; `name` is the index'."""

forgotten = Table(
    "forgotten",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ("org", "team", "name", "document")),
    number("at_s"),
)
"""Documents that are deleted or say something else since: what quoted them before has to go. An
empty `document` is every one of the index."""

deliveries = Table(
    "deliveries",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ("org", "team", "name", "source", "id")),
    *(text(name) for name in ("key", "feature", "items", "state", "why", "owner")),
    *(number(name) for name in ("at_s", "failures", "not_before_s", "lease_until_s")),
    Index("deliveries_by_state", "state", "at_s"),
)
"""Of webhooks: items (JSON) of a source of the index `name` that wait for their sync."""

prices = Table(
    "prices",
    metadata,
    Column("id", _ID, primary_key=True),
    text("model"),
    number("effective_s"),
    number("input_nanousd"),
    number("cached_nanousd"),
    number("output_nanousd"),
    UniqueConstraint("model", "effective_s"),
)
"""Overrides; nano-dollars a million tokens."""

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    text("org"),
    text("team"),
    text("key"),
    number("created_s"),
    text("purpose"),
    text("filename"),
    number("size_bytes"),
    Column("expires_s", BigInteger, nullable=True),
    Index("files_by_team", "org", "team", "created_s"),
)
"""A file is there when its row is; `headrace.store.blobs` keeps the contents."""

file_chunks = Table(
    "file_chunks",
    metadata,
    Column("file", Text, primary_key=True),
    Column("at", Integer, primary_key=True),
    number("created_s"),
    Column("data", LargeBinary, nullable=False),
)
"""Contents on PostgreSQL, written before the file's row; on SQLite they are in a directory."""

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    text("org"),
    text("team"),
    text("key"),
    text("feature"),
    number("created_s"),
    text("endpoint"),
    text("input_file"),
    text("metadata"),
    Column("output_ttl_s", BigInteger, nullable=True),
    text("state"),
    text("outcome"),
    text("errors"),
    text("model"),
    text("output_file"),
    text("error_file"),
    number("total"),
    number("completed"),
    number("failed"),
    number("prompt_tokens"),
    number("cached_tokens"),
    number("completion_tokens"),
    number("reasoning_tokens"),
    number("expires_s"),
    Column("in_progress_s", BigInteger, nullable=True),
    Column("finalizing_s", BigInteger, nullable=True),
    Column("completed_s", BigInteger, nullable=True),
    Column("failed_s", BigInteger, nullable=True),
    Column("expired_s", BigInteger, nullable=True),
    Column("cancelling_s", BigInteger, nullable=True),
    Column("cancelled_s", BigInteger, nullable=True),
    text("owner"),
    number("lease_until_s"),
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
    text("org"),
    text("team"),
    text("key"),
    number("created_s"),
    text("custom_id"),
    number("start"),
    number("size"),
    text("state"),
    number("attempt"),
    number("failures"),
    number("not_before_s"),
    text("owner"),
    number("lease_until_s"),
    text("result"),
    number("prompt_tokens"),
    number("cached_tokens"),
    number("completion_tokens"),
    number("reasoning_tokens"),
    Index("batch_lines_by_state", "batch", "state", "line"),
)
"""One request: bytes `start` to `start + size` of the input file; `state` is waiting, running,
completed or failed; `result` the line it becomes in the output or error file. Gone when the batch
has ended."""

responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    text("org"),
    text("team"),
    text("key"),
    number("created_s"),
    Column("expires_s", BigInteger, nullable=True),
    text("previous"),
    number("size_bytes"),
    text("input"),
    text("body"),
    Index("responses_by_team", "org", "team", "created_s"),
    Index("responses_by_expiry", "expires_s"),
)
"""`previous`: the id of the response that it continues, or empty. `input`, `body`: JSON."""
