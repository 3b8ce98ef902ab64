-- The record of migrations, and the identity of the database.

-- name: create_migrations
-- The schema and the record; `owner` is `stage` or the name of the author's folder.
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.migration (
    owner      text NOT NULL,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at float8 NOT NULL,
    PRIMARY KEY (owner, name)
);

-- name: has_migrations
-- Whether the record exists yet.
SELECT to_regclass('stage.migration') IS NOT NULL;

-- name: applied_migrations
-- The applied migrations, in the order of their application.
SELECT owner, name, sha256, applied_at FROM stage.migration ORDER BY applied_at, owner, name;

-- name: lock_migrations
-- One process at a time applies migrations: whether this one may ($1: a constant). The lock ends
-- with the transaction.
SELECT pg_try_advisory_xact_lock($1);

-- name: has_migration
-- Whether a migration is recorded: another process may have applied it meanwhile.
SELECT 1 FROM stage.migration WHERE owner = $1 AND name = $2;

-- name: record_migration
-- Written in the same transaction as the migration itself.
INSERT INTO stage.migration (owner, name, sha256, applied_at) VALUES ($1, $2, $3, $4);

-- name: first_migrated
-- When the first migration was applied.
SELECT min(applied_at) FROM stage.migration;

-- name: get_identity
-- The one row.
SELECT id, stage, born_at, generation, release, restored_as_of, restored_at, released_at
FROM stage.identity WHERE one = 1;

-- name: latest_change
-- When a saga changed last; null where there is none.
SELECT max(updated_at) FROM stage.saga;

-- name: make_identity
-- Write the row, unless another replica was faster.
INSERT INTO stage.identity (
    one, id, stage, born_at, generation, release, restored_as_of, restored_at, released_at
) VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (one) DO NOTHING;

-- name: name_identity
-- Replace the names that the row takes from the stage that opens the database, and nothing that an
-- operator may be writing at this moment.
UPDATE stage.identity SET stage = $1, release = $2 WHERE one = 1;

-- name: put_identity
-- Replace the row.
UPDATE stage.identity SET
    id = $1, stage = $2, born_at = $3, generation = $4, release = $5, restored_as_of = $6,
    restored_at = $7, released_at = $8
WHERE one = 1;

-- name: begin_upgrade
-- Read what others have committed while this one waited for the lock. A statement that waits for a
-- table keeps all others from it, so that it waits for a moment only. No other limit of the role ends
-- it: it idles while another connection builds an index. Older releases lack transaction_timeout.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = '2s';
SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN
    ('idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout');

-- name: lift_limits
-- Let the statements of this session take as long as they take, whatever the role may.
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('lock_timeout', 'statement_timeout', 'transaction_timeout');

-- name: begin_authored
-- From here on statements of an author are run in the transaction.
SET LOCAL stage.author = 'on';

-- name: drop_snapshot
-- End what the statement before has left open in a transaction, and its snapshot with it: it is
-- replaced by that of a plain statement, which leaves nothing.
SELECT 1;

-- name: put_reconciled
-- Remember that a neighbour was asked in this generation, and what it answered.
INSERT INTO stage.reconciled (generation, neighbour, answer, at) VALUES ($1, $2, $3, $4)
ON CONFLICT (generation, neighbour) DO UPDATE SET answer = $3, at = $4;

-- name: get_reconciled
-- The neighbours of this generation, each with its answer; an empty one was not asked.
SELECT neighbour, answer FROM stage.reconciled WHERE generation = $1 ORDER BY neighbour;

-- name: has_replicas
-- Whether replicas could register yet.
SELECT to_regclass('stage.replica') IS NOT NULL;

-- name: live_replicas
-- The names of those that serve now.
SELECT name FROM stage.replica WHERE NOT dead AND lease_until >= clock_timestamp() ORDER BY id;

-- name: bury_all
-- Let no registration go on: one that slept, or began meanwhile, registers anew, and is looked at.
UPDATE stage.replica SET dead = true WHERE NOT dead;

-- name: durability
-- Whether COMMIT waits for the disk of the server, and for which standbys.
SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names');
