-- Every effect of a step and of its compensation leaves a row. Nothing here is unique on purpose:
-- an effect that is made twice must show as two rows and not as an error.
CREATE TABLE ledger (
    number    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id   text NOT NULL,
    step      text NOT NULL,
    direction integer NOT NULL CHECK (direction IN (1, -1))
);
