-- The record of migrations.

-- name: create_migrations
-- Made before any other table; `owner` is `stage` or the name of the author's folder.
CREATE TABLE IF NOT EXISTS stage_migration (
    owner      TEXT NOT NULL,
    name       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    applied_at REAL NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;

-- name: has_migrations
-- Whether the record exists yet.
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'stage_migration';

-- name: applied_migrations
-- The applied migrations, in the order of their application.
SELECT owner, name, sha256, applied_at FROM stage_migration ORDER BY applied_at, owner, name;

-- name: record_migration
-- Written in the same transaction as the migration itself.
INSERT INTO stage_migration (owner, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4);
