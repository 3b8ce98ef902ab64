-- Looking through a whole file, and copying it.

-- name: integrity_check
-- Reads every page and every index; `ok`, or what is wrong, twenty things at most.
PRAGMA integrity_check(20);

-- name: uneven_sagas
-- Sagas that have more or fewer journal entries than their row says, unless they were closed.
SELECT id, length, (SELECT count(*) FROM journal WHERE saga_id = saga.id) AS entries FROM saga
WHERE closed_at IS NULL AND length <> entries LIMIT 20;

-- name: stray_entries
-- Sagas that have journal entries and no row.
SELECT DISTINCT saga_id FROM journal
WHERE NOT EXISTS (SELECT 1 FROM saga WHERE id = journal.saga_id) LIMIT 20;

-- name: count_all
-- How many sagas and how many entries there are.
SELECT (SELECT count(*) FROM saga), (SELECT count(*) FROM journal);

-- name: copy_into
-- Write one consistent copy to the file ?1, without what was deleted; writers go on meanwhile.
VACUUM INTO ?1;
