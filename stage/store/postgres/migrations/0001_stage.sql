-- The tables of a stage. They stand in the schema `stage`, beside the author's own.

-- One row a registration of a replica; its id is never given out again. A dead one stays dead.
CREATE TABLE stage.replica (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    lease_until timestamptz NOT NULL,
    dead        boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- The number of the last durable batch of each writer: after a COMMIT whose answer was lost, it
-- tells whether the batch landed (rule 8).
CREATE TABLE stage.writer_batch (
    writer text PRIMARY KEY,
    number bigint NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- One row a saga. `owner` is the registration that runs it; a saga that needs no run has none.
CREATE TABLE stage.saga (
    id            text COLLATE "C" PRIMARY KEY,
    state         text NOT NULL,
    epoch         bigint NOT NULL CHECK (epoch >= 0),
    length        bigint NOT NULL CHECK (length >= 0),
    accepted_at   float8 NOT NULL,
    updated_at    float8 NOT NULL,
    fingerprint   text NOT NULL,
    parked        text NOT NULL,
    due_at        float8,
    deadline      float8,
    envelope      bytea NOT NULL,
    traceparent   text NOT NULL,
    tracestate    text NOT NULL,
    answer_status bigint,
    answer_body   bytea NOT NULL,
    closed_at     float8,
    parked_cause  text NOT NULL,
    version       bigint NOT NULL,
    owner         bigint
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- What a replica has, and what the dead left behind.
CREATE INDEX saga_owner ON stage.saga (owner) WHERE owner IS NOT NULL;

-- What rests until an instant. A saga that runs is not in it.
CREATE INDEX saga_rests ON stage.saga (due_at) WHERE due_at IS NOT NULL AND owner IS NULL;

-- Operators ask for what waits for a person.
CREATE INDEX saga_parked ON stage.saga (id) WHERE parked <> '';

-- Operators list by state, and the count of a state must not read the envelopes.
CREATE INDEX saga_state ON stage.saga (state, id);

-- The janitor asks for what is over and still has its undo data.
CREATE INDEX saga_closable ON stage.saga (updated_at)
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND state IN ('completed', 'compensated');

-- What a neighbour asks for after a restore: sagas that changed since an instant.
CREATE INDEX saga_changed ON stage.saga (updated_at, id) WHERE closed_at IS NULL;

-- What happened, in order.
CREATE TABLE stage.journal (
    saga_id text COLLATE "C" NOT NULL,
    number  bigint NOT NULL CHECK (number >= 1),
    epoch   bigint NOT NULL,
    at      float8 NOT NULL,
    name    text NOT NULL,
    event   bytea NOT NULL,
    PRIMARY KEY (saga_id, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- The mailbox: events that other replicas want journaled by the owner of a saga.
CREATE TABLE stage.signal (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id text COLLATE "C" NOT NULL,
    owner   bigint NOT NULL,
    event   bytea NOT NULL
);
CREATE INDEX signal_owner ON stage.signal (owner);

-- Which database this is (rule 33).
CREATE TABLE stage.identity (
    one            int PRIMARY KEY CHECK (one = 1),
    id             text NOT NULL,
    stage          text NOT NULL,
    born_at        float8 NOT NULL,
    generation     bigint NOT NULL CHECK (generation >= 1),
    release        text NOT NULL,
    restored_as_of float8,
    restored_at    float8,
    released_at    float8
);

-- What neighbours asked of sagas that this database must have lost (protocol 3.4).
CREATE TABLE stage.lost_saga (
    saga_id       text COLLATE "C" NOT NULL,
    requested_by  text NOT NULL,
    reason        text NOT NULL,
    first_sent_at float8,
    asked_at      float8 NOT NULL,
    PRIMARY KEY (saga_id, requested_by)
);

-- The neighbours that were asked for their sagas since a backup was put back, by generation.
CREATE TABLE stage.reconciled (
    generation bigint NOT NULL,
    neighbour  text NOT NULL,
    answer     text NOT NULL,
    at         float8 NOT NULL,
    PRIMARY KEY (generation, neighbour)
);
