"""The hub's tables, beside the registry's. Statements are parted by an empty line."""

STEPS = (
    """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, password TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT 'person', admin INTEGER NOT NULL DEFAULT 0, disabled INTEGER NOT NULL DEFAULT 0,
    stamp INTEGER NOT NULL DEFAULT 0, created_ns INTEGER NOT NULL
);

CREATE TABLE members (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, role TEXT NOT NULL,
    PRIMARY KEY (namespace, account)
) WITHOUT ROWID;

CREATE INDEX members_account ON members (account);

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    name TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL, expires_ns INTEGER NOT NULL,
    created_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX tokens_account ON tokens (account);

CREATE TABLE sessions (
    hash TEXT PRIMARY KEY, account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    csrf TEXT NOT NULL, expires_ns INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE webhooks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    repository TEXT NOT NULL DEFAULT '', url TEXT NOT NULL, secret TEXT NOT NULL, actions TEXT NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0, event INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    next_ns INTEGER NOT NULL DEFAULT 0, created_ns INTEGER NOT NULL
);

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, webhook INTEGER NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event INTEGER NOT NULL, at_ns INTEGER NOT NULL, status INTEGER NOT NULL, error TEXT NOT NULL
);

CREATE INDEX deliveries_webhook ON deliveries (webhook, id);

CREATE VIRTUAL TABLE found USING fts5 (name, description, labels, tokenize = 'trigram');

CREATE TRIGGER repositories_found AFTER INSERT ON repositories BEGIN
    INSERT INTO found (rowid, name, description, labels) VALUES (NEW.id, NEW.name, NEW.description, NEW.labels); END;

CREATE TRIGGER repositories_changed AFTER UPDATE OF description, labels ON repositories BEGIN
    UPDATE found SET description = NEW.description, labels = NEW.labels WHERE rowid = NEW.id; END;

CREATE TRIGGER repositories_gone AFTER DELETE ON repositories BEGIN
    DELETE FROM found WHERE rowid = OLD.id; END;
""",
)
