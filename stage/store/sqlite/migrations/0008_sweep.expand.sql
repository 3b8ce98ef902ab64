-- Verbs that are done to many sagas (core.sweep), and where each is with each saga.
CREATE TABLE stage_sweep (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at     REAL NOT NULL,
    actor  TEXT NOT NULL,
    verb   TEXT NOT NULL,
    reason TEXT NOT NULL,
    step   TEXT NOT NULL,
    named  TEXT NOT NULL,
    rate   REAL NOT NULL,
    state  TEXT NOT NULL
);
CREATE TABLE stage_sweep_saga (
    sweep   INTEGER NOT NULL,
    saga_id TEXT NOT NULL,
    ended   TEXT NOT NULL,
    detail  TEXT NOT NULL,
    PRIMARY KEY (sweep, saga_id)
) WITHOUT ROWID;
CREATE INDEX stage_sweep_saga_end ON stage_sweep_saga (sweep, ended, saga_id);
