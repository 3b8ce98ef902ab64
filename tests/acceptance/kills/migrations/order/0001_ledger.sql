-- Every effect of a step and of its compensation leaves a row. Nothing here is unique on purpose:
-- an effect that is made twice must show as two rows and not as an error.
CREATE TABLE ledger (
    number    INTEGER PRIMARY KEY,
    saga_id   TEXT NOT NULL,
    step      TEXT NOT NULL,
    direction INTEGER NOT NULL CHECK (direction IN (1, -1))
);
