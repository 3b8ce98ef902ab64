-- The rows that were dropped for their age (ports.store.Dropped).
CREATE TABLE stage.dropped (
    one           int PRIMARY KEY CHECK (one = 1),
    ids_until     float8 NOT NULL,
    changed_until float8 NOT NULL
);
INSERT INTO stage.dropped (one, ids_until, changed_until) VALUES (1, 0, 0);
