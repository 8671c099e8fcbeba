-- 0014
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0014');
CREATE TABLE alerts (
	limit_id INTEGER NOT NULL, 
	starts_s BIGINT NOT NULL, 
	rule TEXT NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (limit_id, starts_s, rule), 
	FOREIGN KEY(limit_id) REFERENCES limits (id) ON DELETE CASCADE
);
CREATE TABLE answers (
	id TEXT NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	route TEXT DEFAULT '' NOT NULL, 
	release TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	expires_s BIGINT DEFAULT '0' NOT NULL, 
	size_bytes BIGINT DEFAULT '0' NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	actor TEXT DEFAULT '' NOT NULL, 
	role TEXT DEFAULT '' NOT NULL, 
	via TEXT DEFAULT '' NOT NULL, 
	request TEXT DEFAULT '' NOT NULL, 
	action TEXT DEFAULT '' NOT NULL, 
	subject TEXT DEFAULT '' NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	detail TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE batch_lines (
	batch TEXT NOT NULL, 
	line INTEGER NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	custom_id TEXT DEFAULT '' NOT NULL, 
	start BIGINT DEFAULT '0' NOT NULL, 
	size BIGINT DEFAULT '0' NOT NULL, 
	state TEXT DEFAULT '' NOT NULL, 
	attempt BIGINT DEFAULT '0' NOT NULL, 
	failures BIGINT DEFAULT '0' NOT NULL, 
	not_before_s BIGINT DEFAULT '0' NOT NULL, 
	owner TEXT DEFAULT '' NOT NULL, 
	lease_until_s BIGINT DEFAULT '0' NOT NULL, 
	result TEXT DEFAULT '' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (batch, line), 
	FOREIGN KEY(batch) REFERENCES batches (id) ON DELETE CASCADE
);
CREATE TABLE batches (
	id TEXT NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	feature TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	endpoint TEXT DEFAULT '' NOT NULL, 
	input_file TEXT DEFAULT '' NOT NULL, 
	metadata TEXT DEFAULT '' NOT NULL, 
	output_ttl_s BIGINT, 
	state TEXT DEFAULT '' NOT NULL, 
	outcome TEXT DEFAULT '' NOT NULL, 
	errors TEXT DEFAULT '' NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	output_file TEXT DEFAULT '' NOT NULL, 
	error_file TEXT DEFAULT '' NOT NULL, 
	total BIGINT DEFAULT '0' NOT NULL, 
	completed BIGINT DEFAULT '0' NOT NULL, 
	failed BIGINT DEFAULT '0' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL, 
	expires_s BIGINT DEFAULT '0' NOT NULL, 
	in_progress_s BIGINT, 
	finalizing_s BIGINT, 
	completed_s BIGINT, 
	failed_s BIGINT, 
	expired_s BIGINT, 
	cancelling_s BIGINT, 
	cancelled_s BIGINT, 
	owner TEXT DEFAULT '' NOT NULL, 
	lease_until_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE bills (
	id TEXT NOT NULL, 
	provider TEXT DEFAULT '' NOT NULL, 
	upstream TEXT DEFAULT '' NOT NULL, 
	day BIGINT DEFAULT '0' NOT NULL, 
	request TEXT DEFAULT '' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_tokens BIGINT DEFAULT '0' NOT NULL, 
	cache_write_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nanousd BIGINT DEFAULT '0' NOT NULL, 
	priced BOOLEAN NOT NULL, 
	variance_nanousd BIGINT DEFAULT '0' NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE deliveries (
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	name TEXT NOT NULL, 
	source TEXT NOT NULL, 
	id TEXT NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	feature TEXT DEFAULT '' NOT NULL, 
	items TEXT DEFAULT '' NOT NULL, 
	state TEXT DEFAULT '' NOT NULL, 
	why TEXT DEFAULT '' NOT NULL, 
	owner TEXT DEFAULT '' NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	failures BIGINT DEFAULT '0' NOT NULL, 
	not_before_s BIGINT DEFAULT '0' NOT NULL, 
	lease_until_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (org, team, name, source, id)
);
CREATE TABLE file_chunks (
	file TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (file, at)
);
CREATE TABLE files (
	id TEXT NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	purpose TEXT DEFAULT '' NOT NULL, 
	filename TEXT DEFAULT '' NOT NULL, 
	size_bytes BIGINT DEFAULT '0' NOT NULL, 
	expires_s BIGINT, 
	PRIMARY KEY (id)
);
CREATE TABLE forgotten (
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (org, team, name, document)
);
CREATE TABLE holds (
	id TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	record TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(worker) REFERENCES workers (id)
);
CREATE TABLE keys (
	id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	prefix TEXT DEFAULT '' NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	user TEXT, 
	role TEXT DEFAULT '' NOT NULL, 
	models TEXT DEFAULT '' NOT NULL, 
	routes TEXT DEFAULT '' NOT NULL, 
	features TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	expires_s BIGINT, 
	revoked_s BIGINT, 
	previous_sha256 TEXT, 
	previous_until_s BIGINT, data_class TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (sha256), 
	FOREIGN KEY(org) REFERENCES orgs (id), 
	FOREIGN KEY(team) REFERENCES teams (id), 
	FOREIGN KEY(user) REFERENCES users (id), 
	UNIQUE (previous_sha256)
);
CREATE TABLE leases (
	worker TEXT NOT NULL, 
	window_id INTEGER NOT NULL, 
	amount BIGINT DEFAULT '0' NOT NULL, 
	lost BOOLEAN NOT NULL, 
	PRIMARY KEY (worker, window_id), 
	CHECK (amount >= 0), 
	FOREIGN KEY(worker) REFERENCES workers (id), 
	FOREIGN KEY(window_id) REFERENCES windows (id) ON DELETE CASCADE
);
CREATE TABLE legs (
	transaction_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	provider TEXT DEFAULT '' NOT NULL, 
	upstream TEXT DEFAULT '' NOT NULL, 
	outcome TEXT DEFAULT '' NOT NULL, 
	estimated BIGINT DEFAULT '0' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_tokens BIGINT DEFAULT '0' NOT NULL, 
	cache_write_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL, 
	compute_us BIGINT DEFAULT '0' NOT NULL, 
	kv_byte_s BIGINT DEFAULT '0' NOT NULL, 
	cost_nanousd BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (transaction_id, position)
);
CREATE TABLE limits (
	id INTEGER NOT NULL, 
	scope TEXT DEFAULT '' NOT NULL, 
	subject TEXT DEFAULT '' NOT NULL, 
	unit TEXT DEFAULT '' NOT NULL, 
	window TEXT DEFAULT '' NOT NULL, 
	zone TEXT DEFAULT '' NOT NULL, 
	amount BIGINT DEFAULT '0' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (scope, subject, unit, window), 
	CHECK (amount >= 0)
);
CREATE TABLE logins (
	state_sha256 TEXT NOT NULL, 
	next TEXT DEFAULT '' NOT NULL, 
	expires_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (state_sha256)
);
CREATE TABLE meta (
	name TEXT NOT NULL, 
	value BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('revision',1);
CREATE TABLE orgs (
	id TEXT NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE postings (
	id INTEGER NOT NULL, 
	transaction_id TEXT NOT NULL, 
	account TEXT DEFAULT '' NOT NULL, 
	amount_nanousd BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE prices (
	id INTEGER NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	effective_s BIGINT DEFAULT '0' NOT NULL, 
	input_nanousd BIGINT DEFAULT '0' NOT NULL, 
	cached_nanousd BIGINT DEFAULT '0' NOT NULL, 
	output_nanousd BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (model, effective_s)
);
CREATE TABLE quotes (
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	request TEXT NOT NULL, 
	answer TEXT NOT NULL, 
	batch TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (org, team, name, document, request, answer)
);
CREATE TABLE responses (
	id TEXT NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	expires_s BIGINT, 
	previous TEXT DEFAULT '' NOT NULL, 
	size_bytes BIGINT DEFAULT '0' NOT NULL, 
	input TEXT DEFAULT '' NOT NULL, 
	body TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE sessions (
	id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	user TEXT NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	expires_s BIGINT DEFAULT '0' NOT NULL, 
	revoked_s BIGINT, 
	PRIMARY KEY (id), 
	UNIQUE (sha256), 
	FOREIGN KEY(user) REFERENCES users (id)
);
CREATE TABLE source_alerts (
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	name TEXT NOT NULL, 
	source TEXT NOT NULL, 
	complete_s BIGINT NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (org, team, name, source, complete_s)
);
CREATE TABLE teams (
	id TEXT NOT NULL, 
	org TEXT NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(org) REFERENCES orgs (id)
);
CREATE TABLE trace_contents (
	id TEXT NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	prompt TEXT DEFAULT '' NOT NULL, 
	answer TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE trace_policies (
	scope TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	content_ppm BIGINT, 
	retention_days BIGINT, 
	PRIMARY KEY (scope, subject)
);
CREATE TABLE traces (
	id TEXT NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	feature TEXT DEFAULT '' NOT NULL, 
	end_user TEXT DEFAULT '' NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	route TEXT DEFAULT '' NOT NULL, 
	status BIGINT DEFAULT '0' NOT NULL, 
	finish TEXT DEFAULT '' NOT NULL, 
	trace_id TEXT DEFAULT '' NOT NULL, 
	duration_us BIGINT DEFAULT '0' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nanousd BIGINT DEFAULT '0' NOT NULL, 
	body TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE transactions (
	id TEXT NOT NULL, 
	kind TEXT DEFAULT '' NOT NULL, 
	at_s BIGINT DEFAULT '0' NOT NULL, 
	org TEXT DEFAULT '' NOT NULL, 
	team TEXT DEFAULT '' NOT NULL, 
	user TEXT DEFAULT '' NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	feature TEXT DEFAULT '' NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	route TEXT DEFAULT '' NOT NULL, 
	finish TEXT DEFAULT '' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nanousd BIGINT DEFAULT '0' NOT NULL, 
	held_nanousd BIGINT DEFAULT '0' NOT NULL, 
	price_hash TEXT DEFAULT '' NOT NULL, 
	charges TEXT DEFAULT '' NOT NULL, cache_write_tokens BIGINT DEFAULT '0' NOT NULL, provider TEXT DEFAULT '' NOT NULL, upstream TEXT DEFAULT '' NOT NULL, cache TEXT DEFAULT '' NOT NULL, estimated BIGINT DEFAULT '0' NOT NULL, compute_us BIGINT DEFAULT '0' NOT NULL, kv_byte_s BIGINT DEFAULT '0' NOT NULL, calls BIGINT DEFAULT '0' NOT NULL, batch TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE users (
	id TEXT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	created_s BIGINT DEFAULT '0' NOT NULL, role TEXT DEFAULT 'member' NOT NULL, name TEXT DEFAULT '' NOT NULL, account TEXT, disabled_s BIGINT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(org) REFERENCES orgs (id), 
	FOREIGN KEY(team) REFERENCES teams (id)
);
CREATE TABLE windows (
	id INTEGER NOT NULL, 
	limit_id INTEGER NOT NULL, 
	starts_s BIGINT DEFAULT '0' NOT NULL, 
	ends_s BIGINT DEFAULT '0' NOT NULL, 
	spent BIGINT DEFAULT '0' NOT NULL, 
	leased BIGINT DEFAULT '0' NOT NULL, 
	lost BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (limit_id, starts_s), 
	CHECK (spent >= 0 AND leased >= 0 AND lost >= 0), 
	FOREIGN KEY(limit_id) REFERENCES limits (id) ON DELETE CASCADE
);
CREATE TABLE workers (
	id TEXT NOT NULL, 
	expires_s BIGINT DEFAULT '0' NOT NULL, 
	state TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE INDEX transactions_by_time ON transactions (at_s);
CREATE UNIQUE INDEX users_by_account ON users (account);
CREATE INDEX sessions_by_user ON sessions (user);
CREATE INDEX audit_by_org ON audit (org, team);
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE INDEX files_by_team ON files (org, team, created_s);
CREATE INDEX batches_by_team ON batches (org, team, created_s);
CREATE INDEX batches_by_state ON batches (state);
CREATE INDEX batch_lines_by_state ON batch_lines (batch, state, line);
CREATE INDEX responses_by_team ON responses (org, team, created_s);
CREATE INDEX responses_by_expiry ON responses (expires_s);
CREATE INDEX traces_by_time ON traces (created_s);
CREATE INDEX traces_by_team ON traces (team, created_s);
CREATE INDEX traces_by_end_user ON traces (end_user);
CREATE INDEX answers_by_end ON answers (expires_s);
CREATE INDEX answers_by_team ON answers (org, team, created_s);
CREATE INDEX quotes_by_request ON quotes (request);
CREATE INDEX quotes_by_time ON quotes (created_s);
CREATE INDEX deliveries_by_state ON deliveries (state, at_s);
