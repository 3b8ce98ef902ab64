-- The identity of the database, what tells a new file from a used one, and how one is made.

-- name: journal_in_memory
-- A database that is being made needs no file to take a migration back.
PRAGMA journal_mode = MEMORY;

-- name: sync_never
-- It is synced once it is whole.
PRAGMA synchronous = OFF;

-- name: get_identity
-- The one row.
SELECT id, stage, born_at, generation, release, restored_as_of, restored_at, released_at
FROM stage_identity WHERE one = 1;

-- name: put_identity
-- Write the row, whether it is there or not.
INSERT OR REPLACE INTO stage_identity (
    one, id, stage, born_at, generation, release, restored_as_of, restored_at, released_at
) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8);

-- name: latest_change
-- When a saga changed last; null where there is none.
SELECT max(updated_at) FROM saga;

-- name: get_application_id
-- Four bytes in the head of the file, which copies have too; 0 where nobody has set them.
PRAGMA application_id;

-- name: first_migrated
-- When the first migration was applied: the birth of a database older than its identity.
SELECT min(applied_at) FROM stage_migration;

-- name: count_objects
-- Tables, indexes, views and triggers; 0 in a file that nobody has written to.
SELECT count(*) FROM sqlite_master;

-- name: payload_keys
-- The keys under which contents may lie here.
SELECT id FROM stage_payload_key;

-- name: put_payload_key
-- Contents are written under this key from now on.
INSERT OR IGNORE INTO stage_payload_key (id) VALUES (?1);

-- name: drop_payload_key
-- No contents lie under this key any more.
DELETE FROM stage_payload_key WHERE id = ?1;

-- name: secure_delete
-- Overwrite what is replaced with zeros: it is what was to be encrypted.
PRAGMA secure_delete = ON;

-- name: sealed_sagas
-- The contents of at most ?2 sagas behind the id ?1.
SELECT id, envelope, answer_body, fingerprint FROM saga WHERE id > ?1 ORDER BY id LIMIT ?2;

-- name: sealed_entries
-- At most ?3 journal entries behind (?1, ?2).
SELECT saga_id, number, event FROM journal WHERE (saga_id, number) > (?1, ?2)
ORDER BY saga_id, number LIMIT ?3;

-- name: terms_of_saga
-- The names and stored values of the terms of a saga.
SELECT name, value FROM saga_term WHERE saga_id = ?1;

-- name: reseal_term
-- Replace the stored value ?3 of a term, where it is still there.
UPDATE OR REPLACE saga_term SET value = ?4 WHERE name = ?2 AND value = ?3 AND saga_id = ?1;

-- name: reseal_saga
-- Replace the contents of a saga, unless they have changed meanwhile.
UPDATE saga SET envelope = ?5, answer_body = ?6, fingerprint = ?7
WHERE id = ?1 AND envelope = ?2 AND answer_body = ?3 AND fingerprint = ?4;

-- name: reseal_entry
-- Replace the contents of a journal entry.
UPDATE journal SET event = ?3 WHERE saga_id = ?1 AND number = ?2;

-- name: data_version
-- Changes when another connection has written.
PRAGMA data_version;

-- name: quick_check
-- Reads every page; `ok`, or the first thing that is wrong.
PRAGMA quick_check(1);

-- name: keep_lost
-- Keep the first request of each neighbour, as long as fewer than ?6 are kept about sagas that
-- are still not here. Requests about other sagas are left out where the table may be full, as is
-- the row that stands for what had no room.
INSERT OR IGNORE INTO lost_saga (saga_id, requested_by, reason, first_sent_at, asked_at)
SELECT ?1, ?2, ?3, ?4, ?5 WHERE (SELECT count(*) FROM lost_saga) < ?6 OR (
    SELECT count(*) FROM lost_saga
    WHERE saga_id <> '+more'
        AND NOT EXISTS (SELECT 1 FROM saga WHERE id = lost_saga.saga_id)
) < ?6;

-- name: lost_requests
-- The requests about one lost saga, in the order in which they were made.
SELECT requested_by, reason, first_sent_at, asked_at FROM lost_saga
WHERE saga_id = ?1 ORDER BY asked_at, requested_by;

-- name: lost_sagas
-- At most ?1 requests that are kept about sagas that are not here, in the order they were made.
SELECT saga_id, requested_by, reason, first_sent_at, asked_at FROM lost_saga
WHERE NOT EXISTS (SELECT 1 FROM saga WHERE id = lost_saga.saga_id)
ORDER BY asked_at, saga_id LIMIT ?1;

-- name: unadopted
-- The requests that are kept about sagas that are still not here, in the order they were made.
SELECT saga_id, requested_by, reason FROM lost_saga
WHERE NOT EXISTS (SELECT 1 FROM saga WHERE id = lost_saga.saga_id)
ORDER BY asked_at, saga_id;

-- name: give_up_lost
-- Drop the requests about the lost saga ?1, if it is still not here.
DELETE FROM lost_saga
WHERE saga_id = ?1 AND NOT EXISTS (SELECT 1 FROM saga WHERE id = ?1);

-- name: count_lost
-- How many sagas are known to be lost and were not adopted.
SELECT count(DISTINCT saga_id) FROM lost_saga
WHERE NOT EXISTS (SELECT 1 FROM saga WHERE id = lost_saga.saga_id);

-- name: put_reconciled
-- Remember that a neighbour was asked in this generation, and what it answered.
INSERT OR REPLACE INTO stage_reconciled (generation, neighbour, answer, at)
VALUES (?1, ?2, ?3, ?4);

-- name: get_reconciled
-- The neighbours that were asked in this generation.
SELECT neighbour, answer, at FROM stage_reconciled WHERE generation = ?1 ORDER BY neighbour;
