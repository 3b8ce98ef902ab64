-- What a neighbour asks for after a restore (protocol 3.8): sagas that changed since an instant.
-- Closed sagas are left out: they have no undo data, and nothing more can be done about them.
CREATE INDEX saga_changed ON saga (updated_at, id) WHERE closed_at IS NULL;

-- The neighbours that were asked for their sagas since a backup was put back, by generation.
CREATE TABLE stage_reconciled (
    generation INTEGER NOT NULL,
    neighbour  TEXT    NOT NULL,
    answer     TEXT    NOT NULL,
    at         REAL    NOT NULL,
    PRIMARY KEY (generation, neighbour)
) WITHOUT ROWID;
