-- The journal of the stage: one row a saga, its entries, and the writer's batch number.
-- Timestamps are seconds since the epoch, UTC.

-- The row of a saga: what is needed to find it, answer for it and run it again.
-- With a rowid, because envelopes and answers would fill the inner pages of a tree without one.
CREATE TABLE saga (
    id            TEXT    NOT NULL PRIMARY KEY,
    state         TEXT    NOT NULL CHECK (state IN (
                      'active', 'completed', 'compensating', 'compensated',
                      'failed_to_compensate')),
    epoch         INTEGER NOT NULL CHECK (epoch >= 0),
    length        INTEGER NOT NULL CHECK (length >= 0),
    accepted_at   REAL    NOT NULL,
    updated_at    REAL    NOT NULL,
    fingerprint   TEXT    NOT NULL,
    parked        TEXT    NOT NULL,
    due_at        REAL,
    deadline      REAL,
    traceparent   TEXT    NOT NULL,
    tracestate    TEXT    NOT NULL,
    answer_status INTEGER,
    answer_body   BLOB    NOT NULL,
    envelope      BLOB    NOT NULL,
    closed_at     REAL,
    parked_cause  TEXT    NOT NULL
);

-- Recovery asks for what is due; ended sagas are not in this index.
CREATE INDEX saga_due ON saga (due_at) WHERE due_at IS NOT NULL;

-- Operators ask for what waits for a person.
CREATE INDEX saga_parked ON saga (id) WHERE parked <> '';

-- Operators list by state, and the count of a state must not read the envelopes.
CREATE INDEX saga_state ON saga (state, id);

-- The janitor asks for what is over and still has its undo data.
CREATE INDEX saga_closable ON saga (updated_at)
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND state IN ('completed', 'compensated');

-- What happened, in order. Without a rowid: it is only ever read by saga, from first to last.
CREATE TABLE journal (
    saga_id TEXT    NOT NULL,
    number  INTEGER NOT NULL CHECK (number >= 1),
    epoch   INTEGER NOT NULL,
    at      REAL    NOT NULL,
    name    TEXT    NOT NULL,
    event   BLOB    NOT NULL,
    PRIMARY KEY (saga_id, number)
) WITHOUT ROWID;

-- The number of the last batch that became durable: after a COMMIT that raised, it tells whether
-- the batch landed (rule 8).
CREATE TABLE writer_batch (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL
);

INSERT INTO writer_batch (one, number) VALUES (1, 0);
