-- The newest task of Step Functions for a saga, while one is held. `token` is a hash, `before` that of
-- the task before it; `given_up` says that one of them timed out while it was the newest.
CREATE TABLE stage_task (
    saga_id  TEXT NOT NULL PRIMARY KEY,
    token    TEXT NOT NULL,
    before   TEXT NOT NULL,
    given_up INTEGER NOT NULL,
    at       REAL NOT NULL
) WITHOUT ROWID;
