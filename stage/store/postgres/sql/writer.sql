-- The statements of the writer: batches, savepoints, and the writes of a whole batch at once.

-- name: begin_brief
-- Units that share a transaction hold the author's row locks until its end, and all sagas wait for
-- this connection, so that it waits for the locks of others only for a moment. Statements of authors
-- are run in it.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL stage.author = 'on';
SET LOCAL lock_timeout = '20ms';
SET LOCAL idle_in_transaction_session_timeout = '4s';

-- name: begin_patient
-- A unit that has the transaction for itself, where nobody else waits for it.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL stage.author = 'on';
SET LOCAL lock_timeout = '2s';
SET LOCAL idle_in_transaction_session_timeout = '4s';

-- name: commit_batch
-- Make the batch durable.
COMMIT;

-- name: drop_batch
-- Roll the whole batch back.
ROLLBACK;

-- name: begin_part
-- Mark the place to which a unit, or an attempt within it, can be undone.
SAVEPOINT part;

-- name: keep_part
-- Keep the writes since the mark.
RELEASE SAVEPOINT part;

-- name: undo_part
-- Undo the writes since the mark; the mark stays until it is released.
ROLLBACK TO SAVEPOINT part;

-- name: copy_journal_anew
-- Write a table that holds contents of sagas anew: plain VACUUM leaves the bytes of dead rows in the
-- pages. A table that is in use is skipped, with a warning.
VACUUM (FULL, SKIP_LOCKED) stage.journal;

-- name: copy_saga_anew
-- As copy_journal_anew.
VACUUM (FULL, SKIP_LOCKED) stage.saga;

-- name: copy_saga_term_anew
-- As copy_journal_anew.
VACUUM (FULL, SKIP_LOCKED) stage.saga_term;

-- name: copy_signal_anew
-- As copy_journal_anew.
VACUUM (FULL, SKIP_LOCKED) stage.signal;

-- name: copy_lost_saga_anew
-- As copy_journal_anew.
VACUUM (FULL, SKIP_LOCKED) stage.lost_saga;

-- name: copy_act_key_anew
-- As copy_journal_anew: the digest of an order may tell a business number.
VACUUM (FULL, SKIP_LOCKED) stage.act_key;

-- name: holders_of_table
-- The sessions that hold a lock of a table.
SELECT DISTINCT 'session ' || l.pid || coalesce(' of ' || a.usename, '')
    || coalesce(' (' || nullif(a.application_name, '') || ')', '')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.relation = $1::text::regclass AND l.pid IS NOT NULL
    AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT 'the prepared transaction ' || p.gid
FROM pg_prepared_xacts p WHERE p.database = current_database()
LIMIT 100;

-- name: file_of_table
-- The number of the file that a table is in: a copy of it has another one.
SELECT pg_relation_filenode($1::text::regclass);

-- name: snapshot_boundary
-- The number of the first transaction that was not over: rows that are gone by now were dropped by
-- one before it.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint;

-- name: older_snapshots
-- All that keeps rows which a transaction before that number dropped. The numbers of sessions and
-- slots have 32 bits and go round, so that the distance counts. Where no transaction before it runs,
-- no snapshot can begin that sees those rows.
SELECT 'session ' || pid || coalesce(' of ' || usename, '')
    || coalesce(' (' || nullif(application_name, '') || ')', '')
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND (
    (($1::bigint - backend_xid::text::bigint) & 4294967295) BETWEEN 1 AND 2147483647
    OR ((($1::bigint - backend_xmin::text::bigint) & 4294967295) BETWEEN 1 AND 2147483647
        AND (datname IS NULL OR datname = current_database())))
UNION ALL
SELECT 'the replication slot ' || slot_name FROM pg_replication_slots
WHERE (($1::bigint - xmin::text::bigint) & 4294967295) BETWEEN 1 AND 2147483647
UNION ALL
SELECT 'the prepared transaction ' || gid FROM pg_prepared_xacts
WHERE (($1::bigint - transaction::text::bigint) & 4294967295) BETWEEN 1 AND 2147483647
UNION ALL
SELECT 'session ' || pid || ', which only a member of pg_read_all_stats may look at'
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
    AND query = '<insufficient privilege>'
UNION ALL
SELECT 'a transaction that began before'
WHERE pg_snapshot_xmin(pg_current_snapshot())::text::bigint < $1::bigint
LIMIT 100;

-- name: settle_batch
-- The number of the last batch of a writer that landed. It waits for a transaction that still
-- holds the row, and writes it once more, so that its own COMMIT comes after that of the batch.
INSERT INTO stage.writer_batch (writer, number) VALUES ($1, 0)
ON CONFLICT (writer) DO UPDATE SET number = stage.writer_batch.number
RETURNING number;

-- name: last_batch
-- The number of the last batch, for a reader that waits for nothing and writes nothing.
SELECT number FROM stage.writer_batch WHERE writer = $1;

-- name: drop_writer
-- The writer is closed, and nothing of it is in doubt.
DELETE FROM stage.writer_batch WHERE writer = $1;

-- name: drop_old_writers
-- Drop the writers of processes that ended long ago without closing.
DELETE FROM stage.writer_batch WHERE at < now() - interval '7 days';

-- name: write_batch
-- All writes of a batch: its number, the rows of sagas, the entries, what is taken and received.
-- An id that does not come back was refused: it exists (insert), or the row has another epoch,
-- length or owner (save). A saga that was taken had no live owner, and is locked since. `entries` tells
-- how many entries were added, `number_before` which number the batch before had.
WITH counted AS (
    INSERT INTO stage.writer_batch (writer, number) VALUES ($1, $2)
    ON CONFLICT (writer) DO UPDATE SET number = $2, at = now()
), given AS (
    SELECT * FROM unnest(
        $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::float8[], $9::float8[],
        $10::text[], $11::text[], $12::float8[], $13::float8[], $14::bytea[], $15::text[],
        $16::text[], $17::bigint[], $18::bytea[], $19::text[], $20::bigint[], $21::text[],
        $22::text[], $23::bigint[], $24::bigint[]
    ) AS given (
        id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
        envelope, traceparent, tracestate, answer_status, answer_body, parked_cause, version,
        step, peer, old_epoch, old_length
    )
), inserted AS (
    INSERT INTO stage.saga (
        id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
        envelope, traceparent, tracestate, answer_status, answer_body, parked_cause, version,
        step, peer, owner
    )
    SELECT
        id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
        envelope, traceparent, tracestate, answer_status, answer_body, parked_cause, version,
        step, peer, CASE WHEN due_at IS NOT NULL THEN $3::bigint END
    FROM given WHERE old_epoch IS NULL
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), saved AS (
    UPDATE stage.saga SET
        state = given.state, epoch = given.epoch, length = given.length,
        accepted_at = given.accepted_at, updated_at = given.updated_at,
        fingerprint = given.fingerprint, parked = given.parked, due_at = given.due_at,
        deadline = given.deadline, envelope = given.envelope, traceparent = given.traceparent,
        tracestate = given.tracestate, answer_status = given.answer_status,
        answer_body = given.answer_body, parked_cause = given.parked_cause,
        version = given.version, step = given.step, peer = given.peer,
        owner = CASE WHEN given.due_at IS NOT NULL THEN $3::bigint END
    FROM given
    WHERE saga.id = given.id AND saga.epoch = given.old_epoch
        AND saga.length = given.old_length
        AND (saga.owner IS NULL OR saga.owner = $3 OR saga.id = ANY($31::text[]))
    RETURNING saga.id
), added AS (
    INSERT INTO stage.journal (saga_id, number, epoch, at, name, event)
    SELECT * FROM unnest(
        $25::text[], $26::bigint[], $27::bigint[], $28::float8[], $29::text[], $30::bytea[]
    )
    ON CONFLICT (saga_id, number) DO NOTHING
    RETURNING 1
), taken AS (
    UPDATE stage.saga SET owner = $3 WHERE id = ANY($31::text[]) AND id <> ALL($4::text[])
), received AS (
    DELETE FROM stage.signal WHERE number = ANY($32::bigint[])
), found_by AS (
    INSERT INTO stage.saga_term (saga_id, name, value)
    SELECT * FROM unnest($33::text[], $34::text[], $35::text[])
    ON CONFLICT DO NOTHING
)
SELECT
    ARRAY(SELECT id FROM inserted UNION ALL SELECT id FROM saved) AS ids,
    (SELECT count(*) FROM added) AS entries,
    coalesce((SELECT number FROM stage.writer_batch WHERE writer = $1), 0) AS number_before;
