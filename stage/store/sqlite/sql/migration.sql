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
-- The applied migrations, in the order of their application; without the numbers of workers.
SELECT owner, name, sha256, applied_at FROM stage_migration
WHERE NOT (owner = 'stage' AND name GLOB 'workers_[0-9]*')
ORDER BY applied_at, owner, name;

-- name: numbers_of_workers
-- The numbers of workers that served the file. To a release without workers each is a migration that
-- it does not know, so that it refuses the file.
SELECT CAST(substr(name, 9) AS INTEGER) FROM stage_migration
WHERE owner = 'stage' AND name GLOB 'workers_[0-9]*';

-- name: record_number_of_workers
-- So many workers serve the file from now on.
INSERT OR IGNORE INTO stage_migration (owner, name, sha256, applied_at)
VALUES ('stage', 'workers_' || ?1, '', ?2);

-- name: record_migration
-- Written in the same transaction as the migration itself.
INSERT INTO stage_migration (owner, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4);

-- name: has_migration
-- Whether a migration is recorded: another process may have applied it meanwhile.
SELECT 1 FROM stage_migration WHERE owner = ?1 AND name = ?2;

-- name: foreign_keys_enforced
-- Whether this connection enforces foreign keys.
PRAGMA foreign_keys;

-- name: foreign_keys_off
-- Let a table be rebuilt: dropping the old one would delete the rows that refer to it.
PRAGMA foreign_keys = OFF;

-- name: foreign_key_check
-- The rows that refer to rows which are not there: table, rowid, table referred to, number.
PRAGMA foreign_key_check;

-- name: tables_referred_to
-- Each table with each one that its foreign keys refer to.
SELECT child.name, parent."table"
FROM sqlite_master AS child, pragma_foreign_key_list(child.name) AS parent
WHERE child.type = 'table';

-- name: no_checkpoint
-- Leave the write-ahead log to the stage that is up: only one connection is to reset it.
PRAGMA wal_autocheckpoint = 0;
