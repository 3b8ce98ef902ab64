-- Verbs that are done to many sagas (core.sweep), and where each is with each saga.
CREATE TABLE stage.sweep (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     float8 NOT NULL,
    actor  text NOT NULL,
    verb   text NOT NULL,
    reason text NOT NULL,
    step   text NOT NULL,
    named  text NOT NULL,
    rate   float8 NOT NULL,
    state  text NOT NULL
);
CREATE TABLE stage.sweep_saga (
    sweep   bigint NOT NULL,
    saga_id text COLLATE "C" NOT NULL,
    ended   text NOT NULL,
    detail  text NOT NULL,
    PRIMARY KEY (sweep, saga_id)
);
CREATE INDEX sweep_saga_end ON stage.sweep_saga (sweep, ended, saga_id);
