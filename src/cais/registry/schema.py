"""The registry's tables. Statements are parted by an empty line."""

STEPS = (
    """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

INSERT INTO counters VALUES ('generation', 1);

CREATE TABLE namespaces (
    name TEXT PRIMARY KEY, quota INTEGER NOT NULL DEFAULT 0, private INTEGER NOT NULL DEFAULT 0,
    immutable TEXT NOT NULL DEFAULT '[]', retention TEXT NOT NULL DEFAULT '{}',
    description TEXT NOT NULL DEFAULT '', created_ns INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE repositories (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, namespace TEXT NOT NULL,
    short TEXT GENERATED ALWAYS AS (substr(name, instr(name, '/') + 1)) VIRTUAL,
    private INTEGER NOT NULL DEFAULT 0, description TEXT NOT NULL DEFAULT '', readme TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL DEFAULT '', immutable TEXT NOT NULL DEFAULT '[]', retention TEXT NOT NULL DEFAULT '{}',
    size INTEGER NOT NULL DEFAULT 0, pulls INTEGER NOT NULL DEFAULT 0, created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL, pulled_ns INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX repositories_namespace ON repositories (namespace, name);

CREATE INDEX repositories_short ON repositories (short);

CREATE INDEX repositories_rank ON repositories (id, pulls, private, namespace, name);

CREATE INDEX repositories_pulls ON repositories (private, pulls);

CREATE TABLE blobs (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, created_ns INTEGER NOT NULL,
    checked_ns INTEGER NOT NULL DEFAULT 0, damaged INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE INDEX blobs_checked ON blobs (checked_ns);

CREATE TABLE links (
    repository INTEGER NOT NULL REFERENCES repositories ON DELETE CASCADE,
    digest TEXT NOT NULL REFERENCES blobs, generation INTEGER NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;

CREATE INDEX links_digest ON links (digest);

CREATE INDEX links_generation ON links (generation);

CREATE TRIGGER links_added AFTER INSERT ON links BEGIN
    UPDATE repositories SET size = size + (SELECT size FROM blobs WHERE digest = NEW.digest)
    WHERE id = NEW.repository; END;

CREATE TRIGGER links_removed AFTER DELETE ON links BEGIN
    UPDATE repositories SET size = size - (SELECT size FROM blobs WHERE digest = OLD.digest)
    WHERE id = OLD.repository; END;

CREATE TABLE manifests (
    repository INTEGER NOT NULL REFERENCES repositories ON DELETE CASCADE,
    digest TEXT NOT NULL REFERENCES blobs, media_type TEXT NOT NULL, size INTEGER NOT NULL, total INTEGER NOT NULL,
    artifact_type TEXT NOT NULL, config TEXT NOT NULL, subject TEXT NOT NULL, annotations TEXT NOT NULL,
    pushed_ns INTEGER NOT NULL, generation INTEGER NOT NULL, pulled_ns INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;

CREATE INDEX manifests_digest ON manifests (digest);

CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject <> '';

CREATE TABLE edges (
    repository INTEGER NOT NULL, digest TEXT NOT NULL, manifest TEXT NOT NULL,
    PRIMARY KEY (repository, digest, manifest),
    FOREIGN KEY (repository, manifest) REFERENCES manifests ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX edges_manifest ON edges (repository, manifest);

CREATE TABLE tags (
    repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, pushed_ns INTEGER NOT NULL,
    PRIMARY KEY (repository, name),
    FOREIGN KEY (repository, digest) REFERENCES manifests ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX tags_digest ON tags (repository, digest);

CREATE TABLE pulls (
    repository INTEGER NOT NULL REFERENCES repositories ON DELETE CASCADE, day INTEGER NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (repository, day)
) WITHOUT ROWID;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL, action TEXT NOT NULL, repository TEXT NOT NULL,
    account TEXT NOT NULL, address TEXT NOT NULL, target TEXT NOT NULL, tag TEXT NOT NULL, detail TEXT NOT NULL
);

CREATE INDEX events_repository ON events (repository, id)
""",
)
