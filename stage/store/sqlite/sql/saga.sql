-- The rows and the journal of sagas.

-- name: insert_saga
-- Write the row of a new saga. A primary key conflict says that the id exists.
INSERT INTO saga (
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, parked_cause, version,
    step, peer
) VALUES (
    ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19
);

-- name: save_saga
-- Replace the row if it still has the epoch of the caller (?20) and the journal the length that
-- the caller continues (?21). No changed row means that it has not.
UPDATE saga SET
    state = ?2, epoch = ?3, length = ?4, accepted_at = ?5, updated_at = ?6, fingerprint = ?7,
    parked = ?8, due_at = ?9, deadline = ?10, envelope = ?11, traceparent = ?12,
    tracestate = ?13, answer_status = ?14, answer_body = ?15, parked_cause = ?16, version = ?17,
    step = ?18, peer = ?19
WHERE id = ?1 AND epoch = ?20 AND length = ?21;

-- name: held_saga
-- The epoch and the length of a saga, for the reason why a save was refused.
SELECT epoch, length FROM saga WHERE id = ?1;

-- name: get_saga
-- The whole row of one saga.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga WHERE id = ?1;

-- name: seen_sagas
-- Which of the ids in the JSON array ?1 there are.
SELECT id FROM saga WHERE id IN (SELECT value FROM json_each(?1));

-- name: get_envelopes
-- The envelopes of the ids in the JSON array ?1, without those of more than ?2 bytes.
SELECT id, envelope FROM saga
WHERE id IN (SELECT value FROM json_each(?1)) AND length(envelope) BETWEEN 1 AND ?2;

-- name: append_entries
-- Add entries to the journal; the group behind VALUES is repeated for each.
INSERT INTO journal (saga_id, number, epoch, at, name, event) VALUES (?, ?, ?, ?, ?, ?);

-- name: get_journal
-- All entries of a saga, in order.
SELECT number, epoch, event FROM journal WHERE saga_id = ?1 ORDER BY number;

-- name: due_sagas
-- The sagas that need a run at or before ?1, by version ?3 or an older one, the longest due first.
-- An instant behind ?4 came from a clock that was wrong.
SELECT id, due_at FROM saga WHERE due_at IS NOT NULL AND due_at <= ?1 AND version <= ?3
UNION ALL
SELECT id, due_at FROM saga WHERE due_at IS NOT NULL AND due_at > ?4 AND version <= ?3
ORDER BY due_at, id LIMIT ?2;

-- name: count_newer
-- The number of sagas that need a run by a newer version than ?1.
SELECT count(*) FROM saga WHERE due_at IS NOT NULL AND version > ?1;

-- name: unfinished_versions
-- The number of sagas that are not at rest by the version that accepted them. A person may have given
-- one up: then it is at rest.
SELECT version, count(*) FROM saga
WHERE closed_at IS NULL AND (due_at IS NOT NULL OR parked <> ''
    OR (state = 'failed_to_compensate' AND coalesce(answer_status, 0) <> 410))
GROUP BY version;

-- name: unfinished_sagas
-- At most ?1 of those sagas, with the version that accepted each.
SELECT id, version FROM saga
WHERE closed_at IS NULL AND (due_at IS NOT NULL OR parked <> ''
    OR (state = 'failed_to_compensate' AND coalesce(answer_status, 0) <> 410))
ORDER BY id LIMIT ?1;

-- name: latest_completed
-- The last ?1 sagas, by their ids, that have completed and can be compensated.
SELECT id, version FROM saga
WHERE state = 'completed' AND closed_at IS NULL AND due_at IS NULL AND parked = ''
ORDER BY id DESC LIMIT ?1;

-- name: count_sagas
-- The number of sagas in each state, read from indexes alone. A saga that was given up is closed in
-- the state that it had, and is taken off again in a second row.
SELECT state, count(*) FROM saga GROUP BY state
UNION ALL
SELECT state, -count(*) FROM saga
WHERE closed_at IS NOT NULL AND state IN ('active', 'compensating', 'failed_to_compensate')
GROUP BY state;

-- name: count_parked
-- The number of parked sagas by cause, read from an index alone: a scrape asks for it.
SELECT parked_cause, count(*) FROM saga
WHERE (step <> '' OR parked_cause <> '') AND parked_cause <> '' GROUP BY parked_cause;

-- name: oldest_unfinished
-- The instant at which the oldest saga was accepted, of those under way that are not parked and do not
-- wait at a step without a peer: of these the journal says whether a person is asked.
SELECT min(accepted_at) FROM saga
WHERE state IN ('active', 'compensating') AND parked = '' AND due_at IS NOT NULL
    AND (step = '' OR peer <> '' OR state <> 'active');

-- name: waiting_without_peer
-- The sagas that wait at a step without a peer, with the lengths of their journals. The index is named
-- because the planner prefers that of the states, which has every saga under way.
SELECT id, version, step, length, accepted_at, due_at IS NOT NULL
FROM saga INDEXED BY saga_place
WHERE (step <> '' OR parked_cause <> '') AND parked_cause = '' AND step <> ''
    AND peer = '' AND state = 'active' AND parked = '';

-- name: words_of_approvals
-- The last word about an approval in each of the journals of ?1, a JSON array of pairs: the id of a
-- saga, and the number of the entry behind which it is read.
SELECT word.saga_id, word.number, word.name, word.at
FROM json_each(?1) AS unread CROSS JOIN journal AS word
    ON word.saga_id = json_extract(unread.value, '$[0]') AND word.number = (
        SELECT max(number) FROM journal
        WHERE saga_id = json_extract(unread.value, '$[0]')
            AND number > json_extract(unread.value, '$[1]')
            AND name IN ('approval_asked', 'approved', 'rejected')
    );

-- name: instants_since
-- The instants of the journal of saga ?1, from entry ?2 on.
SELECT at FROM journal WHERE saga_id = ?1 AND number >= ?2 ORDER BY number;

-- name: longest_due
-- The instant since which the longest due saga needs a run, of those due at ?1 for version
-- ?2 or an older one.
SELECT min(due_at) FROM saga WHERE due_at IS NOT NULL AND due_at <= ?1 AND version <= ?2;

-- name: oldest_compensation
-- The instant at which the first saga turned back, of those whose undo, or the message of it to
-- upstream, is still under way. Of each journal only the entries before that instant are read.
SELECT min((
    SELECT at FROM journal
    WHERE saga_id = saga.id AND name IN ('turned_back', 'compensation_requested')
    ORDER BY number LIMIT 1
)) FROM saga
WHERE due_at IS NOT NULL AND state IN ('compensating', 'compensated', 'failed_to_compensate');

-- name: closable_sagas
-- Sagas that are over and have undo data left, last changed before ?1; at most ?2. The index is
-- named because the planner prefers that of the states, reads every ended saga and sorts them all.
SELECT id FROM saga INDEXED BY saga_closable
WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
    AND state IN ('completed', 'compensated') AND updated_at < ?1
ORDER BY updated_at LIMIT ?2;

-- name: given_up_sagas
-- Sagas that a person forgot and that are not closed: unfinished ones of which nothing is due, and
-- those that failed to compensate and answer 410. At most ?1.
SELECT id FROM saga INDEXED BY saga_given_up
WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
    AND (state IN ('active', 'compensating')
        OR (state = 'failed_to_compensate' AND answer_status = 410)) LIMIT ?1;

-- name: close_rest
-- Replace the row of a saga at rest that still has the epoch ?7 and the length ?8.
UPDATE saga SET
    epoch = ?2, fingerprint = ?3, tracestate = ?4, answer_body = ?5, closed_at = ?6, envelope = x''
WHERE id = ?1 AND epoch = ?7 AND length = ?8 AND due_at IS NULL AND parked = '';

-- name: blank_lost
-- Drop the words of the requests about a saga that was lost.
UPDATE lost_saga SET reason = '' WHERE saga_id = ?1 AND reason <> '';

-- name: close_saga
-- Drop the undo data of a saga; its row stays and answers for it.
UPDATE saga SET closed_at = ?2, envelope = x'' WHERE id = ?1;

-- name: drop_answers
-- Empty the answers of at most ?2 sagas that were closed before ?1.
UPDATE saga SET answer_body = x'' WHERE id IN (
    SELECT id FROM saga INDEXED BY saga_answer_kept
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND length(answer_body) > 0 AND closed_at < ?1
    ORDER BY closed_at LIMIT ?2
);

-- name: drop_answer
-- Empty the answer of the closed saga ?1, at any age.
UPDATE saga SET answer_body = x''
WHERE id = ?1 AND closed_at IS NOT NULL AND state IN ('completed', 'compensated');

-- name: droppable_sagas
-- At most ?2 sagas that were closed before ?1, whose ids are UUIDv7 in lower case of an instant
-- before they were closed. The condition is that of the index.
SELECT id, updated_at FROM saga INDEXED BY saga_row_kept
WHERE closed_at < ?1 AND closed_at IS NOT NULL AND state IN ('completed', 'compensated')
    AND id GLOB '????????-????-7???-[89ab]???-????????????'
    AND id NOT GLOB '*[^0-9a-f-]*' AND length(replace(id, '-', '')) = 32
    AND replace(substr(id, 1, 13), '-', '') < printf('%012x', CAST(closed_at * 1000 AS INTEGER))
ORDER BY closed_at, id LIMIT ?2;

-- name: droppable_saga
-- The closed saga ?1, if its row may be dropped at any age.
SELECT id, updated_at FROM saga
WHERE id = ?1 AND closed_at IS NOT NULL AND state IN ('completed', 'compensated')
    AND id GLOB '????????-????-7???-[89ab]???-????????????'
    AND id NOT GLOB '*[^0-9a-f-]*' AND length(replace(id, '-', '')) = 32
    AND replace(substr(id, 1, 13), '-', '') < printf('%012x', CAST(closed_at * 1000 AS INTEGER));

-- name: drop_saga
-- Drop a row.
DELETE FROM saga WHERE id = ?1;

-- name: drop_lost
-- Drop the requests about a lost saga.
DELETE FROM lost_saga WHERE saga_id = ?1;

-- name: mark_dropped
-- Rows with ids up to the instant ?1 are dropped, the last change of which was at ?2.
UPDATE stage_dropped SET
    ids_until = max(ids_until, ?1), changed_until = max(changed_until, ?2);

-- name: get_dropped
-- The marks of the rows that were dropped so far.
SELECT ids_until, changed_until FROM stage_dropped;

-- name: drop_acts
-- Drop those of the first ?2 acts that are from before ?1.
DELETE FROM stage_audit
WHERE number IN (SELECT number FROM stage_audit ORDER BY number LIMIT ?2) AND at < ?1;

-- name: insert_term
-- Let the saga ?1 be found by the value ?3 of ?2.
INSERT OR IGNORE INTO saga_term (saga_id, name, value) VALUES (?1, ?2, ?3);

-- name: drop_terms
-- Let a saga be found by its id alone.
DELETE FROM saga_term WHERE saga_id = ?1;

-- name: group_waiting
-- The sagas that wait or are parked, by cause, step, peer and state; read from an index alone.
SELECT parked_cause, step, peer, state, count(*), min(updated_at)
FROM saga WHERE step <> '' OR parked_cause <> ''
GROUP BY parked_cause, step, peer, state;

-- name: put_pause
-- Write a pause, in place of one of the same target and way.
INSERT OR REPLACE INTO stage_pause (target, way, at, until_at, actor, reason)
VALUES (?1, ?2, ?3, ?4, ?5, ?6);

-- name: drop_pause
-- End a pause that was put by then.
DELETE FROM stage_pause WHERE target = ?1 AND way = ?2 AND at <= ?3;

-- name: drop_pauses
-- Drop all of them, for those of another file.
DELETE FROM stage_pause;

-- name: has_pauses
-- Whether the database is of a release that has pauses.
SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'stage_pause';

-- name: get_pauses
-- All of them, also those that are over: there are few.
SELECT target, way, at, until_at, actor, reason FROM stage_pause ORDER BY target, way;

-- name: take_task
-- A task is the newest one of its saga from here on: those before, and whether any was given up. They
-- are a list with spaces, the newest first.
INSERT INTO stage_task AS held (saga_id, token, before, given_up, at)
VALUES (?1, ?2, '', 0, ?3)
ON CONFLICT (saga_id) DO UPDATE SET
    before = CASE WHEN held.token = ?2 THEN held.before
        ELSE substr(rtrim(held.token || ' ' || held.before), 1, 1024) END,
    token = ?2, at = ?3
RETURNING before, given_up;

-- name: withdraw_task
-- A task had timed out before it was taken. It is not the newest one, the one before it is; and it
-- does not become so when one behind it is withdrawn.
UPDATE stage_task SET
    token = CASE WHEN token = ?2 AND before <> ''
        THEN substr(before, 1, instr(before || ' ', ' ') - 1) ELSE token END,
    before = CASE WHEN token = ?2
        THEN substr(before, instr(before || ' ', ' ') + 1)
        ELSE trim(replace(' ' || before || ' ', ' ' || ?2 || ' ', ' ')) END
WHERE saga_id = ?1 AND (token = ?2 OR instr(' ' || before || ' ', ' ' || ?2 || ' '));

-- name: give_up_task
-- The newest task of a saga has timed out; nothing where another one is the newest.
UPDATE stage_task SET given_up = 1 WHERE saga_id = ?1 AND token = ?2;

-- name: end_task
-- The newest task of a saga was answered.
DELETE FROM stage_task WHERE saga_id = ?1 AND token = ?2;

-- name: drop_old_tasks
-- Tasks whose replica was killed, and behind which no other one came.
DELETE FROM stage_task WHERE at < ?1;

-- name: begin_sweep
-- Write a sweep; its number.
INSERT INTO stage_sweep (at, actor, verb, reason, step, named, rate, state)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING number;

-- name: begin_sweep_sagas
-- Write the sagas of the sweep ?1, given as a JSON array.
INSERT INTO stage_sweep_saga (sweep, saga_id, ended, detail)
SELECT ?1, value, 'pending', '' FROM json_each(?2);

-- name: has_sweeps
-- Whether the database is of a release that has sweeps.
SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'stage_sweep');

-- name: running_sweeps
-- Every sweep that runs: its number, verb, words and number of sagas.
SELECT number, verb, named, (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number)
FROM stage_sweep WHERE state = 'running' ORDER BY number;

-- name: set_sweep
-- Let a sweep be in another state.
UPDATE stage_sweep SET state = ?2 WHERE number = ?1;

-- name: end_sweep_saga
-- The sweep ?1 is through with the saga ?2.
UPDATE stage_sweep_saga SET ended = ?3, detail = ?4 WHERE sweep = ?1 AND saga_id = ?2;

-- name: get_sweeps
-- The newest sweeps, or the one of the number ?2, with the counts of their sagas.
SELECT number, at, actor, verb, reason, step, named, rate, state,
    (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number AND ended = 'pending'),
    (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number AND ended = 'done'),
    (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number AND ended = 'refused')
FROM stage_sweep WHERE (?2 IS NULL OR number = ?2) ORDER BY number DESC LIMIT ?1;

-- name: unfinished_sweeps
-- The sweeps that run, and the stopped erasures whose newest act does not say that no bytes are left:
-- the oldest of all first, at most ?1. The audit of an old one may have no act any more.
SELECT number, at, actor, verb, reason, step, named, rate, state,
    (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number AND ended = 'pending'),
    (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number AND ended = 'done'),
    (SELECT count(*) FROM stage_sweep_saga WHERE sweep = number AND ended = 'refused')
FROM stage_sweep AS asked WHERE state = 'running' OR (
    state = 'stopped' AND verb = 'erase'
    AND EXISTS (SELECT 1 FROM stage_sweep_saga WHERE sweep = asked.number AND ended = 'done')
    AND 'scrubbed' <> (
        SELECT act FROM stage_audit WHERE target = 'sweep ' || asked.number
        ORDER BY stage_audit.number DESC LIMIT 1
    )
)
ORDER BY number LIMIT ?1;

-- name: sweep_sagas
-- Sagas of the sweep ?1 that are there ?2.
SELECT saga_id, detail FROM stage_sweep_saga WHERE sweep = ?1 AND ended = ?2
ORDER BY saga_id LIMIT ?3;

-- name: keep_act
-- Add an act to the audit.
INSERT INTO stage_audit (at, actor, act, target, reason, before, after)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7);

-- name: act_under
-- The result of the order under the key ?1.
SELECT digest, at, refused, sweep FROM stage_act_key WHERE key = ?1;

-- name: keep_act_key
-- Keep the result of the order under the key ?1, unless one is kept under it already.
INSERT OR IGNORE INTO stage_act_key (key, digest, at, refused, sweep) VALUES (?1, ?2, ?3, ?4, ?5);

-- name: drop_old_act_keys
-- Keys under which no copy of an order can be under way any more.
DELETE FROM stage_act_key WHERE at < ?1;

-- name: drop_digests
-- A repeat is known by its key alone from here on.
UPDATE stage_act_key SET digest = '' WHERE digest <> '';

-- name: page_acts
-- The acts before the number ?1, the newest first.
SELECT number, at, actor, act, target, reason, before, after FROM stage_audit
WHERE number < ?1 ORDER BY number DESC LIMIT ?2;

-- name: page_acts_of
-- The acts on the target ?3 before the number ?1, the newest first.
SELECT number, at, actor, act, target, reason, before, after FROM stage_audit
WHERE target = ?3 AND number < ?1 ORDER BY number DESC LIMIT ?2;

-- name: drop_journal
-- Drop all entries of a saga.
DELETE FROM journal WHERE saga_id = ?1;
