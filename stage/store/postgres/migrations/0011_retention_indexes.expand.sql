-- stage: outside a transaction
-- Retention asks for closed sagas whose answers are kept, and for those whose ids have an instant.
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_answer_kept;
CREATE INDEX CONCURRENTLY saga_answer_kept ON stage.saga (closed_at)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND octet_length(answer_body) > 0;
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_row_kept;
CREATE INDEX CONCURRENTLY saga_row_kept ON stage.saga (id, closed_at)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND id LIKE '________-____-7___-____-____________';
