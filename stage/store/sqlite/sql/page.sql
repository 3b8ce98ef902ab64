-- Pages of sagas, without their envelopes unless said. One statement for each index: ?1 is the last
-- id of the page before, ?2 the size of the page, and the order that of the ids unless said.

-- name: page_all
-- All sagas; with ?3 = 0 only those that are not parked.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga
WHERE id > ?1 AND (?3 IS NULL OR parked = '')
    AND (?4 IS NULL OR updated_at >= ?4) AND (?5 IS NULL OR updated_at < ?5)
ORDER BY id LIMIT ?2;

-- name: page_since
-- All sagas that changed at ?3 or later and, unless it is NULL, before ?4. They are found by the
-- index of changes: in the order of ids the old ones would be read first, of which none may fit.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga
WHERE id IN (
        SELECT id FROM saga INDEXED BY saga_changed
        WHERE updated_at >= ?3 AND updated_at < ifnull(?4, 9e999) AND id > ?1
        ORDER BY id LIMIT ?2
    )
ORDER BY id;

-- name: page_changed
-- Sagas that changed at ?1 or later and behind the saga (?1, ?2), with their envelopes; closed
-- ones too, because a neighbour that lost one would take it for never sent.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga
WHERE (updated_at, id) > (?1, ?2)
ORDER BY updated_at, id LIMIT ?3;

-- name: page_waiting
-- Sagas that wait or are parked; ?3 is a JSON array of states, ?4 whether they are parked, then the
-- cause, JSON arrays of the names of the step and of the peer, and the bounds of the last change: each
-- NULL for all.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga
WHERE (step <> '' OR parked <> '') AND id > ?1
    AND (?3 IS NULL OR state IN (SELECT value FROM json_each(?3)))
    AND (?4 IS NULL OR (parked <> '') = ?4)
    AND (?5 IS NULL OR (parked_cause = ?5 AND parked <> ''))
    AND (?6 IS NULL OR step IN (SELECT value FROM json_each(?6)))
    AND (?7 IS NULL OR peer IN (SELECT value FROM json_each(?7)))
    AND (?8 IS NULL OR updated_at >= ?8) AND (?9 IS NULL OR updated_at < ?9)
ORDER BY id LIMIT ?2;

-- name: page_term
-- Sagas that are found by a value of the JSON array ?4 under the name ?3.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga
WHERE id IN (
        SELECT saga_id FROM saga_term
        WHERE name = ?3 AND value IN (SELECT value FROM json_each(?4))
    ) AND id > ?1
ORDER BY id LIMIT ?2;

-- name: page_states
-- Sagas in the states of the JSON array ?3; with ?4 = 0 only those that are not parked.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version, step, peer
FROM saga
WHERE state IN (SELECT value FROM json_each(?3)) AND id > ?1 AND (?4 IS NULL OR parked = '')
    AND (?5 IS NULL OR updated_at >= ?5) AND (?6 IS NULL OR updated_at < ?6)
ORDER BY id LIMIT ?2;
