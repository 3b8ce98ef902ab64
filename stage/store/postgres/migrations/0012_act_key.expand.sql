-- The result of the order of an operator under an idempotency key, so that a repeat does nothing:
-- `refused` says why it was not done, `sweep` is the number of the sweep that it began.
CREATE TABLE stage.act_key (
    key     text NOT NULL PRIMARY KEY,
    digest  text NOT NULL,
    at      float8 NOT NULL,
    refused text NOT NULL,
    sweep   bigint NOT NULL
);
CREATE INDEX act_key_at ON stage.act_key (at);
