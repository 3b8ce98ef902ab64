-- The rows that were dropped for their age (ports.store.Dropped).
CREATE TABLE stage_dropped (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    ids_until     REAL NOT NULL,
    changed_until REAL NOT NULL
);
INSERT INTO stage_dropped (one, ids_until, changed_until) VALUES (1, 0, 0);

-- Retention asks for closed sagas whose answers are kept, and for those whose ids have an instant.
CREATE INDEX saga_answer_kept ON saga (closed_at)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND length(answer_body) > 0;
CREATE INDEX saga_row_kept ON saga (id, closed_at)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND id GLOB '????????-????-7???-[89ab]???-????????????';
