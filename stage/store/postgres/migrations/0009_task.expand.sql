-- The newest task of Step Functions for a saga, while one is held. `token` is a hash, `before` that of
-- the task before it; `given_up` says that one of them timed out while it was the newest.
CREATE TABLE stage.task (
    saga_id  text NOT NULL PRIMARY KEY,
    token    text NOT NULL,
    before   text NOT NULL,
    given_up boolean NOT NULL,
    at       float8 NOT NULL
);
