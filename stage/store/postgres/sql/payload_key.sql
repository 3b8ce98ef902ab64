-- The keys of the contents, and the exchange of them.

-- name: payload_keys
-- The keys under which contents may lie here.
SELECT id FROM stage.payload_key;

-- name: put_payload_key
-- Contents are written under this key from now on.
INSERT INTO stage.payload_key (id) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: drop_payload_key
-- No contents lie under this key any more.
DELETE FROM stage.payload_key WHERE id = $1;

-- name: sealed_sagas
-- The contents of at most $2 sagas behind the id $1.
SELECT id, envelope, answer_body, fingerprint FROM stage.saga WHERE id > $1 ORDER BY id LIMIT $2;

-- name: sealed_entries
-- At most $3 journal entries behind ($1, $2).
SELECT saga_id, number, event FROM stage.journal WHERE (saga_id, number) > ($1, $2)
ORDER BY saga_id, number LIMIT $3;

-- name: sealed_mail
-- At most $2 events in the mail behind $1.
SELECT number, saga_id, event FROM stage.signal WHERE number > $1 ORDER BY number LIMIT $2;

-- name: reseal_saga
-- Replace the contents of a saga, unless they have changed meanwhile.
UPDATE stage.saga SET envelope = $5, answer_body = $6, fingerprint = $7
WHERE id = $1 AND envelope = $2 AND answer_body = $3 AND fingerprint = $4;

-- name: terms_of_saga
-- The names and stored values of the terms of a saga.
SELECT name, value FROM stage.saga_term WHERE saga_id = $1;

-- name: reseal_term
-- Replace the stored value $3 of a term, where it is still there.
WITH ended AS (
    DELETE FROM stage.saga_term WHERE name = $2 AND value = $3 AND saga_id = $1 RETURNING saga_id
)
INSERT INTO stage.saga_term (saga_id, name, value) SELECT saga_id, $2, $4 FROM ended
ON CONFLICT DO NOTHING;

-- name: reseal_entry
-- Replace the contents of a journal entry.
UPDATE stage.journal SET event = $3 WHERE saga_id = $1 AND number = $2;

-- name: reseal_mail
-- Replace an event in the mail.
UPDATE stage.signal SET event = $2 WHERE number = $1;
