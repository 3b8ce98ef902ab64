-- stage: outside a transaction
-- Retention asks for closed sagas whose answers are kept, and for those whose ids, UUIDv7 in lower
-- case, are of an instant before they were closed. It is asked for those alone, so that the others
-- cost nothing, however many they are.
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_answer_kept;
CREATE INDEX CONCURRENTLY saga_answer_kept ON stage.saga (closed_at)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND octet_length(answer_body) > 0;
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_row_kept;
CREATE INDEX CONCURRENTLY saga_row_kept ON stage.saga (closed_at, id)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
        AND replace(left(id, 13), '-', '') COLLATE "C"
            < lpad(to_hex(floor(closed_at * 1000)::bigint), 12, '0');
