-- What transactions of a simulated stage did and undid: one row each time, so that twice shows.
CREATE TABLE ledger (
    saga_id TEXT NOT NULL,
    step    TEXT NOT NULL,
    undone  INTEGER NOT NULL
);
CREATE INDEX ledger_saga ON ledger (saga_id);
