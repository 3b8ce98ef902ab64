-- The rows and the journal of sagas, for one unit and for those who read.

-- name: get_saga
-- The whole row of one saga.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM stage.saga WHERE id = $1;

-- name: seen_sagas
-- Which of the ids in the array $1 there are.
SELECT id FROM stage.saga WHERE id = ANY($1::text[]);

-- name: get_envelopes
-- The envelopes of the ids in the array $1, without those of more than $2 bytes.
SELECT id, envelope FROM stage.saga
WHERE id = ANY($1::text[]) AND octet_length(envelope) BETWEEN 1 AND $2;

-- name: take_saga
-- The whole row, locked, and then its owner.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer, owner
FROM stage.saga WHERE id = $1 FOR UPDATE;

-- name: held_saga
-- Epoch, length and owner of a saga, for the reason why a save was refused.
SELECT epoch, length, owner FROM stage.saga WHERE id = $1;

-- name: unfinished_versions
-- The number of sagas that are not at rest by the version that accepted them. A person may have given
-- one up: then it is at rest.
SELECT version, count(*) FROM stage.saga
WHERE closed_at IS NULL AND (due_at IS NOT NULL OR parked <> ''
    OR (state = 'failed_to_compensate' AND coalesce(answer_status, 0) <> 410))
GROUP BY version;

-- name: unfinished_sagas
-- At most $1 of those sagas, with the version that accepted each.
SELECT id, version FROM stage.saga
WHERE closed_at IS NULL AND (due_at IS NOT NULL OR parked <> ''
    OR (state = 'failed_to_compensate' AND coalesce(answer_status, 0) <> 410))
ORDER BY id LIMIT $1;

-- name: latest_completed
-- The last $1 sagas, by their ids, that have completed and can be compensated.
SELECT id, version FROM stage.saga
WHERE state = 'completed' AND closed_at IS NULL AND due_at IS NULL AND parked = ''
ORDER BY id DESC LIMIT $1;

-- name: get_journal
-- All entries of a saga, in order.
SELECT number, epoch, event FROM stage.journal WHERE saga_id = $1 ORDER BY number;

-- name: due_sagas
-- The sagas that need a run at or before $1, by version $3 or an older one, the longest due first.
-- Each part is found by its index: what rests by saga_rests, what runs by saga_owner. An instant
-- behind $4 came from a clock that was wrong.
SELECT id FROM (
    SELECT id, due_at FROM stage.saga
    WHERE owner IS NULL AND due_at IS NOT NULL AND (due_at <= $1 OR due_at > $4) AND version <= $3
    UNION ALL
    SELECT id, due_at FROM stage.saga
    WHERE owner IS NOT NULL AND due_at IS NOT NULL AND (due_at <= $1 OR due_at > $4)
      AND version <= $3
) due
ORDER BY due_at, id LIMIT $2;

-- name: close_ended
-- Drop the undo data of at most $3 sagas that are over, last changed before $1, and tell their
-- ids. A saga that another transaction has, or this one is about to write ($4), is left alone. A saga
-- that was over before `rested_at` was there has none, and is closed after the others. Unfinished
-- sagas that are neither parked nor due were given up by a person, and so were those that failed to
-- compensate and answer 410.
WITH marked AS (
    SELECT id FROM stage.saga
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND state IN ('completed', 'compensated') AND rested_at < $1 AND id <> ALL($4::text[])
    ORDER BY rested_at LIMIT $3 FOR UPDATE SKIP LOCKED
), unmarked AS (
    SELECT id FROM stage.saga
    WHERE rested_at IS NULL AND due_at IS NULL AND closed_at IS NULL AND parked = ''
        AND state IN ('completed', 'compensated') AND accepted_at < $1 AND updated_at < $1
        AND id <> ALL($4::text[])
    ORDER BY accepted_at LIMIT $3 - (SELECT count(*) FROM marked) FOR UPDATE SKIP LOCKED
), given_up AS (
    SELECT id FROM stage.saga
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND (state IN ('active', 'compensating')
            OR (state = 'failed_to_compensate' AND answer_status = 410))
        AND id <> ALL($4::text[])
    LIMIT $3 FOR UPDATE SKIP LOCKED
), ended AS (
    SELECT id FROM marked UNION ALL SELECT id FROM unmarked UNION ALL SELECT id FROM given_up
), dropped AS (
    DELETE FROM stage.journal WHERE saga_id = ANY(ARRAY(SELECT id FROM ended))
), unfound AS (
    DELETE FROM stage.saga_term WHERE saga_id = ANY(ARRAY(SELECT id FROM ended))
)
UPDATE stage.saga
SET closed_at = $2, envelope = '', rested_at = coalesce(rested_at, updated_at) FROM ended WHERE saga.id = ended.id
RETURNING saga.id;

-- name: close_rest
-- Replace the row of a saga at rest that still has the epoch $7 and the length $8, and drop all else
-- that is kept of it; its id, unless it is otherwise.
WITH closed AS (
    UPDATE stage.saga SET
        epoch = $2, fingerprint = $3, tracestate = $4, answer_body = $5, closed_at = $6,
        envelope = '', rested_at = coalesce(rested_at, updated_at)
    WHERE id = $1 AND epoch = $7 AND length = $8 AND due_at IS NULL AND parked = ''
        AND owner IS NULL
    RETURNING id
), dropped AS (
    DELETE FROM stage.journal WHERE saga_id IN (SELECT id FROM closed)
), unfound AS (
    DELETE FROM stage.saga_term WHERE saga_id IN (SELECT id FROM closed)
), unsaid AS (
    DELETE FROM stage.signal WHERE saga_id IN (SELECT id FROM closed)
), blanked AS (
    UPDATE stage.lost_saga SET reason = ''
    WHERE saga_id IN (SELECT id FROM closed) AND reason <> ''
)
SELECT id FROM closed;

-- name: drop_answers
-- Empty the answers of at most $2 sagas that were closed before $1. A saga that another transaction
-- has, or this one is about to write ($3), is left alone.
UPDATE stage.saga SET answer_body = '' WHERE id = ANY(ARRAY(
    SELECT id FROM stage.saga
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND octet_length(answer_body) > 0 AND closed_at < $1 AND id <> ALL($3::text[])
    ORDER BY closed_at LIMIT $2 FOR UPDATE SKIP LOCKED
))
RETURNING id;

-- name: drop_answer
-- Empty the answer of the closed saga $1, at any age.
UPDATE stage.saga SET answer_body = ''
WHERE id = $1 AND closed_at IS NOT NULL AND state IN ('completed', 'compensated')
RETURNING id;

-- name: drop_sagas
-- Drop at most $2 sagas that were closed before $1, whose ids are UUIDv7 in lower case of an instant
-- before they were closed, and all that was asked of them as lost ones. The condition is that of the
-- index. A saga that another transaction has, or this one is about to write ($3), is left alone.
WITH old AS (
    SELECT id FROM stage.saga
    WHERE closed_at < $1 AND closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
        AND replace(left(id, 13), '-', '') COLLATE "C"
            < lpad(to_hex(floor(closed_at * 1000)::bigint), 12, '0')
        AND id <> ALL($3::text[])
    ORDER BY closed_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
), unasked AS (
    DELETE FROM stage.lost_saga WHERE saga_id = ANY(ARRAY(SELECT id FROM old))
)
DELETE FROM stage.saga WHERE id = ANY(ARRAY(SELECT id FROM old))
RETURNING id, updated_at;

-- name: drop_saga
-- Drop the closed saga $1 as drop_sagas does, at any age.
WITH unasked AS (
    DELETE FROM stage.lost_saga WHERE saga_id = $1 AND EXISTS (
        SELECT 1 FROM stage.saga WHERE id = $1 AND closed_at IS NOT NULL
            AND state IN ('completed', 'compensated')
            AND id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
            AND replace(left(id, 13), '-', '') COLLATE "C"
                < lpad(to_hex(floor(closed_at * 1000)::bigint), 12, '0')
    )
)
DELETE FROM stage.saga
WHERE id = $1 AND closed_at IS NOT NULL AND state IN ('completed', 'compensated')
    AND id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
    AND replace(left(id, 13), '-', '') COLLATE "C"
        < lpad(to_hex(floor(closed_at * 1000)::bigint), 12, '0')
RETURNING id, updated_at;

-- name: mark_dropped
-- Rows with ids up to the instant $1 are dropped, the last change of which was at $2.
UPDATE stage.dropped SET
    ids_until = greatest(ids_until, $1), changed_until = greatest(changed_until, $2)
RETURNING one;

-- name: get_dropped
-- The marks of the rows that were dropped so far.
SELECT ids_until, changed_until FROM stage.dropped;

-- name: drop_acts
-- Drop those of the first $2 acts that are from before $1.
DELETE FROM stage.audit
WHERE number = ANY(ARRAY(SELECT number FROM stage.audit ORDER BY number LIMIT $2)) AND at < $1
RETURNING number;

-- name: lock_lost
-- One transaction at a time keeps a request about a lost saga, or reads whether there is one: there
-- may be no row that could be locked. Ids that share a number wait for each other, and no more.
SELECT pg_advisory_xact_lock(710415, hashtext($1));

-- name: keep_lost
-- Keep the first request of each neighbour, as long as fewer than $6 are kept about sagas that
-- are still not here. Requests about other sagas are left out where the table may be full, as is
-- the row that stands for what had no room.
INSERT INTO stage.lost_saga (saga_id, requested_by, reason, first_sent_at, asked_at)
SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM stage.lost_saga) < $6 OR (
    SELECT count(*) FROM stage.lost_saga
    WHERE saga_id <> '+more'
        AND NOT EXISTS (SELECT 1 FROM stage.saga WHERE id = lost_saga.saga_id)
) < $6
ON CONFLICT DO NOTHING;

-- name: lost_requests
-- The requests about one lost saga, in the order in which they were made.
SELECT requested_by, reason, first_sent_at, asked_at FROM stage.lost_saga
WHERE saga_id = $1 ORDER BY asked_at, requested_by;

-- name: lost_sagas
-- At most $1 requests that are kept about sagas that are not here, in the order they were made.
SELECT saga_id, requested_by, reason, first_sent_at, asked_at FROM stage.lost_saga
WHERE NOT EXISTS (SELECT 1 FROM stage.saga WHERE id = lost_saga.saga_id)
ORDER BY asked_at, saga_id LIMIT $1;

-- name: unadopted
-- The requests that are kept about sagas that are still not here, in the order they were made.
SELECT saga_id, requested_by, reason FROM stage.lost_saga
WHERE NOT EXISTS (SELECT 1 FROM stage.saga WHERE id = lost_saga.saga_id)
ORDER BY asked_at, saga_id;

-- name: give_up_lost
-- Drop the requests about the lost saga $1, if it is still not here.
DELETE FROM stage.lost_saga
WHERE saga_id = $1 AND NOT EXISTS (SELECT 1 FROM stage.saga WHERE id = $1);

-- name: count_sagas
-- The number of sagas in each state, read from indexes alone. A saga that was given up is closed in
-- the state that it had, and does not count.
SELECT state, sum(sagas)::bigint FROM (
    SELECT state, count(*) AS sagas FROM stage.saga GROUP BY state
    UNION ALL
    SELECT state, -count(*) FROM stage.saga
    WHERE closed_at IS NOT NULL AND state IN ('active', 'compensating', 'failed_to_compensate')
    GROUP BY state
) counted GROUP BY state;

-- name: count_parked
-- The number of parked sagas by cause; one without a cause is in none.
SELECT parked_cause, count(*) FROM stage.saga
WHERE parked <> '' AND parked_cause <> '' GROUP BY parked_cause;

-- name: backlog
-- The oldest saga under way that does not wait at a step without a peer, the longest due at $1 for
-- version $2, the begin of the oldest compensation, the sagas of newer versions, and those that are
-- lost and were not adopted. A saga that needs a run rests or has an owner, so that all of them are
-- found by two small indexes.
WITH unfinished AS MATERIALIZED (
    SELECT id, state, due_at, version FROM stage.saga
    WHERE owner IS NULL AND due_at IS NOT NULL
    UNION ALL
    SELECT id, state, due_at, version FROM stage.saga
    WHERE owner IS NOT NULL AND due_at IS NOT NULL
)
SELECT
    (SELECT min(accepted_at) FROM stage.saga
     WHERE state IN ('active', 'compensating') AND parked = '' AND due_at IS NOT NULL
         AND (step = '' OR peer <> '' OR state <> 'active')),
    (SELECT min(due_at) FROM unfinished WHERE due_at <= $1 AND version <= $2),
    (SELECT min(turned.at) FROM unfinished, LATERAL (
        SELECT at FROM stage.journal
        WHERE saga_id = unfinished.id AND name IN ('turned_back', 'compensation_requested')
        ORDER BY number LIMIT 1
     ) turned
     WHERE state IN ('compensating', 'compensated', 'failed_to_compensate')),
    (SELECT count(*) FROM unfinished WHERE version > $2),
    (SELECT count(DISTINCT saga_id) FROM stage.lost_saga
     WHERE NOT EXISTS (SELECT 1 FROM stage.saga WHERE id = lost_saga.saga_id));

-- name: waiting_without_peer
-- The sagas that wait at a step without a peer, with the lengths of their journals.
SELECT id, version, step, length, accepted_at, due_at IS NOT NULL
FROM stage.saga
WHERE (step <> '' OR parked_cause <> '') AND parked_cause = '' AND step <> ''
    AND peer = '' AND state = 'active' AND parked = '';

-- name: words_of_approvals
-- The last word about an approval in each of the journals of $1, a JSON array of pairs: the id of a
-- saga, and the number of the entry behind which it is read.
SELECT unread.pair ->> 0, word.number, word.name, word.at
FROM jsonb_array_elements($1::text::jsonb) AS unread (pair), LATERAL (
    SELECT number, name, at FROM stage.journal
    WHERE saga_id = unread.pair ->> 0 AND number > (unread.pair ->> 1)::bigint
        AND name IN ('approval_asked', 'approved', 'rejected')
    ORDER BY number DESC LIMIT 1
) word;

-- name: instants_since
-- The instants of the journal of saga $1, from entry $2 on.
SELECT at FROM stage.journal WHERE saga_id = $1 AND number >= $2 ORDER BY number;

-- name: page_sagas
-- A page in the order of the ids, without envelopes: behind $1, at most $2; $3 is whether parked
-- sagas are wanted, then the bounds of the last change: each NULL for all.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    ''::bytea, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM stage.saga
WHERE id > $1 AND ($3::boolean IS NULL OR (parked <> '') = $3)
    AND ($4::float8 IS NULL OR updated_at >= $4) AND ($5::float8 IS NULL OR updated_at < $5)
ORDER BY id LIMIT $2;

-- name: page_since
-- All sagas that changed at $3 or later and, unless it is NULL, before $4. They are found by the
-- index of changes: in the order of ids the old ones would be read first, of which none may fit.
-- Running sagas, and those that were over before `rested_at` was there, are found as for
-- page_changed; of the latter those that were closed by then are left out, as there.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    ''::bytea, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM stage.saga
WHERE id = ANY(ARRAY(
    SELECT id FROM (
        SELECT id FROM stage.saga
        WHERE rested_at IS NOT NULL AND rested_at >= $3
            AND rested_at < coalesce($4::float8, 'infinity') AND id > $1
        UNION ALL
        SELECT id FROM stage.saga
        WHERE closed_at IS NULL AND rested_at IS NULL AND due_at IS NULL
            AND updated_at >= $3 AND updated_at < coalesce($4::float8, 'infinity') AND id > $1
        UNION ALL
        SELECT id FROM stage.saga
        WHERE rested_at IS NULL AND due_at IS NOT NULL AND owner IS NOT NULL
            AND updated_at >= $3 AND updated_at < coalesce($4::float8, 'infinity') AND id > $1
        UNION ALL
        SELECT id FROM stage.saga
        WHERE rested_at IS NULL AND due_at IS NOT NULL AND owner IS NULL
            AND updated_at >= $3 AND updated_at < coalesce($4::float8, 'infinity') AND id > $1
    ) found
    ORDER BY id LIMIT $2
))
ORDER BY id;

-- name: page_states
-- As page_sagas for the states of the array $6. Each is read by the index of states, in its order: a
-- plain comparison with the state would let the planner read all ids for a state that few have.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    ''::bytea, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM unnest($6::text[]) AS wanted (one), LATERAL (
    SELECT * FROM stage.saga
    WHERE (state, id) > (wanted.one, $1) AND state <= wanted.one
        AND ($3::boolean IS NULL OR (parked <> '') = $3)
        AND ($4::float8 IS NULL OR updated_at >= $4) AND ($5::float8 IS NULL OR updated_at < $5)
    ORDER BY state, id LIMIT $2
) found
ORDER BY id LIMIT $2;

-- name: page_waiting
-- As page_sagas for sagas that wait or are parked, by their own index; $3 are the states, $4 whether
-- they are parked, then the cause, the names of the step and of the peer, and the bounds of the last
-- change: each NULL for all.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    ''::bytea, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM stage.saga
WHERE (step <> '' OR parked <> '') AND id > $1 AND ($3::text[] IS NULL OR state = ANY($3))
    AND ($4::boolean IS NULL OR (parked <> '') = $4)
    AND ($5::text IS NULL OR (parked_cause = $5 AND parked <> ''))
    AND ($6::text[] IS NULL OR step = ANY($6)) AND ($7::text[] IS NULL OR peer = ANY($7))
    AND ($8::float8 IS NULL OR updated_at >= $8) AND ($9::float8 IS NULL OR updated_at < $9)
ORDER BY id LIMIT $2;

-- name: page_term
-- Sagas that are found by a value of the array $4 under the name $3.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    ''::bytea, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM stage.saga
WHERE id = ANY(ARRAY(
        SELECT saga_id FROM stage.saga_term WHERE name = $3 AND value = ANY($4::text[])
    )) AND id > $1
ORDER BY id LIMIT $2;

-- name: group_waiting
-- The sagas that wait or are parked, by cause, step, peer and state; read from an index alone.
SELECT parked_cause, step, peer, state, count(*), min(rested_at)
FROM stage.saga WHERE step <> '' OR parked_cause <> ''
GROUP BY parked_cause, step, peer, state ORDER BY parked_cause, step, peer, state;

-- name: drop_terms
-- Let a saga be found by its id alone.
DELETE FROM stage.saga_term WHERE saga_id = $1;

-- name: put_pause
-- Write a pause, in place of one of the same target and way.
INSERT INTO stage.pause (target, way, at, until_at, actor, reason)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (target, way) DO UPDATE SET
    at = $3, until_at = $4, actor = $5, reason = $6;

-- name: drop_pause
-- End a pause that was put by then.
DELETE FROM stage.pause WHERE target = $1 AND way = $2 AND at <= $3 RETURNING target;

-- name: get_pauses
-- All of them, also those that are over: there are few.
SELECT target, way, at, until_at, actor, reason FROM stage.pause ORDER BY target, way;

-- name: take_task
-- A task is the newest one of its saga from here on: those before, and whether any was given up. They
-- are a list with spaces, the newest first.
INSERT INTO stage.task AS held (saga_id, token, before, given_up, at)
VALUES ($1, $2, '', false, $3)
ON CONFLICT (saga_id) DO UPDATE SET
    before = CASE WHEN held.token = $2 THEN held.before
        ELSE left(rtrim(held.token || ' ' || held.before), 1024) END,
    token = excluded.token, at = excluded.at
RETURNING held.before, held.given_up;

-- name: withdraw_task
-- A task had timed out before it was taken. It is not the newest one, the one before it is; and it
-- does not become so when one behind it is withdrawn.
UPDATE stage.task SET
    token = CASE WHEN token = $2 AND before <> '' THEN split_part(before, ' ', 1) ELSE token END,
    before = CASE WHEN token = $2
        THEN substr(before, strpos(before || ' ', ' ') + 1)
        ELSE btrim(replace(' ' || before || ' ', ' ' || $2 || ' ', ' ')) END
WHERE saga_id = $1 AND (token = $2 OR strpos(' ' || before || ' ', ' ' || $2 || ' ') > 0);

-- name: give_up_task
-- The newest task of a saga has timed out; nothing where another one is the newest.
UPDATE stage.task SET given_up = true WHERE saga_id = $1 AND token = $2
RETURNING saga_id;

-- name: end_task
-- The newest task of a saga was answered.
DELETE FROM stage.task WHERE saga_id = $1 AND token = $2;

-- name: drop_old_tasks
-- Tasks whose replica was killed, and behind which no other one came.
DELETE FROM stage.task WHERE at < $1;

-- name: begin_sweep
-- Write a sweep; its number.
INSERT INTO stage.sweep (at, actor, verb, reason, step, named, rate, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING number;

-- name: begin_sweep_sagas
-- Write the sagas of the sweep $1, given as an array.
INSERT INTO stage.sweep_saga (sweep, saga_id, ended, detail)
SELECT $1, unnest($2::text[]), 'pending', '';

-- name: has_sweeps
-- Whether the database is of a release that has sweeps.
SELECT to_regclass('stage.sweep') IS NOT NULL;

-- name: running_sweeps
-- Every sweep that runs: its number, verb, words and number of sagas.
SELECT number, verb, named, (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number)
FROM stage.sweep WHERE state = 'running' ORDER BY number;

-- name: set_sweep
-- Let a sweep be in another state.
UPDATE stage.sweep SET state = $2 WHERE number = $1;

-- name: end_sweep_saga
-- The sweep $1 is through with the saga $2.
UPDATE stage.sweep_saga SET ended = $3, detail = $4 WHERE sweep = $1 AND saga_id = $2;

-- name: get_sweeps
-- The newest sweeps, or the one of the number $2, with the counts of their sagas.
SELECT number, at, actor, verb, reason, step, named, rate, state,
    (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number AND ended = 'pending'),
    (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number AND ended = 'done'),
    (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number AND ended = 'refused')
FROM stage.sweep WHERE ($2::bigint IS NULL OR number = $2) ORDER BY number DESC LIMIT $1;

-- name: unfinished_sweeps
-- The sweeps that run, and the stopped erasures whose newest act does not say that no bytes are left:
-- the oldest of all first, at most $1. The audit of an old one may have no act any more.
SELECT number, at, actor, verb, reason, step, named, rate, state,
    (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number AND ended = 'pending'),
    (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number AND ended = 'done'),
    (SELECT count(*) FROM stage.sweep_saga WHERE sweep = number AND ended = 'refused')
FROM stage.sweep AS asked WHERE state = 'running' OR (
    state = 'stopped' AND verb = 'erase'
    AND EXISTS (SELECT 1 FROM stage.sweep_saga WHERE sweep = asked.number AND ended = 'done')
    AND 'scrubbed' <> (
        SELECT act FROM stage.audit WHERE target = 'sweep ' || asked.number
        ORDER BY audit.number DESC LIMIT 1
    )
)
ORDER BY number LIMIT $1;

-- name: sweep_sagas
-- Sagas of the sweep $1 that are there $2.
SELECT saga_id, detail FROM stage.sweep_saga WHERE sweep = $1 AND ended = $2
ORDER BY saga_id LIMIT $3;

-- name: keep_act
-- Add an act to the audit.
INSERT INTO stage.audit (at, actor, act, target, reason, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: lock_act_key
-- One transaction at a time looks for the key $1: there may be no row that could be locked. Keys that
-- share a number wait for each other, and no more.
SELECT pg_advisory_xact_lock(710416, hashtext($1));

-- name: act_under
-- The result of the order under the key $1.
SELECT digest, at, refused, sweep FROM stage.act_key WHERE key = $1;

-- name: keep_act_key
-- Keep the result of the order under the key $1, unless one is kept under it already.
INSERT INTO stage.act_key (key, digest, at, refused, sweep) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING;

-- name: drop_old_act_keys
-- Keys under which no copy of an order can be under way any more.
DELETE FROM stage.act_key WHERE at < $1;

-- name: drop_digests
-- A repeat is known by its key alone from here on.
UPDATE stage.act_key SET digest = '' WHERE digest <> '';

-- name: page_acts
-- The acts before the number $1, the newest first.
SELECT number, at, actor, act, target, reason, before, after FROM stage.audit
WHERE number < $1 ORDER BY number DESC LIMIT $2;

-- name: page_acts_of
-- The acts on the target $3 before the number $1, the newest first.
SELECT number, at, actor, act, target, reason, before, after FROM stage.audit
WHERE target = $3 AND number < $1 ORDER BY number DESC LIMIT $2;

-- name: page_changed
-- Sagas that changed at $1 or later and behind the saga ($1, $2), with their envelopes; closed
-- ones too, because a neighbour that lost one would take it for never sent. Sagas that rest are read
-- in the order of their index. Sagas that run are sorted, for they are few, and so are sagas that
-- were over before `rested_at` was there, which are gone when they are closed.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM stage.saga
WHERE id = ANY(ARRAY(
    SELECT id FROM (
        (SELECT id, rested_at AS at FROM stage.saga
         WHERE rested_at IS NOT NULL AND (rested_at, id) > ($1, $2)
         ORDER BY rested_at, id LIMIT $3)
        UNION ALL
        (SELECT id, updated_at FROM stage.saga
         WHERE closed_at IS NULL AND rested_at IS NULL AND due_at IS NULL
             AND (updated_at, id) > ($1, $2)
         ORDER BY updated_at, id LIMIT $3)
        UNION ALL
        SELECT id, updated_at FROM stage.saga
        WHERE closed_at IS NULL AND rested_at IS NULL AND due_at IS NOT NULL AND owner IS NOT NULL
            AND (updated_at, id) > ($1, $2)
        UNION ALL
        SELECT id, updated_at FROM stage.saga
        WHERE closed_at IS NULL AND rested_at IS NULL AND due_at IS NOT NULL AND owner IS NULL
            AND (updated_at, id) > ($1, $2)
    ) changed
    ORDER BY at, id LIMIT $3
))
ORDER BY updated_at, id;

-- name: size_of_tables
-- Bytes of our tables with their indexes.
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
FROM pg_class WHERE relnamespace = 'stage'::regnamespace AND relkind = 'r';

-- name: uneven_sagas
-- Sagas that have more or fewer journal entries than their row says, unless they were closed.
SELECT id, length, entries FROM stage.saga, LATERAL (
    SELECT count(*) AS entries FROM stage.journal WHERE saga_id = saga.id
) counted
WHERE closed_at IS NULL AND length <> entries LIMIT 20;

-- name: stray_entries
-- Sagas that have journal entries and no row.
SELECT DISTINCT saga_id FROM stage.journal
WHERE NOT EXISTS (SELECT 1 FROM stage.saga WHERE id = journal.saga_id) LIMIT 20;
