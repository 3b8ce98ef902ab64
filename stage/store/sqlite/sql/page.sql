-- Pages of sagas, without their envelopes unless said. One statement for each index: ?1 is the last
-- id of the page before, ?2 the size of the page, and the order that of the ids unless said.

-- name: page_all
-- All sagas; with ?3 = 0 only those that are not parked.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version
FROM saga
WHERE id > ?1 AND (?3 IS NULL OR parked = '')
ORDER BY id LIMIT ?2;

-- name: page_changed
-- Sagas that changed at ?1 or later and behind the saga (?1, ?2), with their envelopes.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version
FROM saga
WHERE closed_at IS NULL AND (updated_at, id) > (?1, ?2)
ORDER BY updated_at, id LIMIT ?3;

-- name: page_parked
-- Parked sagas; ?3 is a JSON array of states, or NULL for all.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version
FROM saga
WHERE parked <> '' AND id > ?1
    AND (?3 IS NULL OR state IN (SELECT value FROM json_each(?3)))
ORDER BY id LIMIT ?2;

-- name: page_states
-- Sagas in the states of the JSON array ?3; with ?4 = 0 only those that are not parked.
SELECT
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    x'', traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause,
    version
FROM saga
WHERE state IN (SELECT value FROM json_each(?3)) AND id > ?1 AND (?4 IS NULL OR parked = '')
ORDER BY id LIMIT ?2;
