-- The rows that were dropped for their age (ports.store.Dropped).
CREATE TABLE stage_dropped (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    ids_until     REAL NOT NULL,
    changed_until REAL NOT NULL
);
INSERT INTO stage_dropped (one, ids_until, changed_until) VALUES (1, 0, 0);

-- Retention asks for closed sagas whose answers are kept, and for those whose ids, UUIDv7 in lower
-- case, are of an instant before they were closed. It is asked for those alone, so that the others
-- cost nothing, however many they are.
CREATE INDEX saga_answer_kept ON saga (closed_at)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND length(answer_body) > 0;
CREATE INDEX saga_row_kept ON saga (closed_at, id)
    WHERE closed_at IS NOT NULL AND state IN ('completed', 'compensated')
        AND id GLOB '????????-????-7???-[89ab]???-????????????'
        AND id NOT GLOB '*[^0-9a-f-]*' AND length(replace(id, '-', '')) = 32
        AND replace(substr(id, 1, 13), '-', '') < printf('%012x', CAST(closed_at * 1000 AS INTEGER));
