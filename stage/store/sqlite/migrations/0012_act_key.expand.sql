-- The result of the order of an operator under an idempotency key, so that a repeat does nothing:
-- `refused` says why it was not done, `sweep` is the number of the sweep that it began.
CREATE TABLE stage_act_key (
    key     TEXT NOT NULL PRIMARY KEY,
    digest  TEXT NOT NULL,
    at      REAL NOT NULL,
    refused TEXT NOT NULL,
    sweep   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX stage_act_key_at ON stage_act_key (at);
