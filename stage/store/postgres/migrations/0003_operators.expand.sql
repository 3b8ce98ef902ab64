-- The step and the peer that a saga waits for, empty while it waits for nothing (core.place).
ALTER TABLE stage.saga ADD COLUMN step text NOT NULL DEFAULT '';
ALTER TABLE stage.saga ADD COLUMN peer text NOT NULL DEFAULT '';

-- Operators ask what waits or is parked, and how much of it by cause, step and peer.
CREATE INDEX saga_waits ON stage.saga (id) WHERE step <> '' OR parked <> '';
CREATE INDEX saga_place ON stage.saga (parked_cause, step, peer, state, updated_at)
    WHERE step <> '' OR parked_cause <> '';

-- The business numbers that an author declared as indexed, and the trace id beside them.
CREATE TABLE stage.saga_term (
    name    text COLLATE "C" NOT NULL,
    value   text COLLATE "C" NOT NULL,
    saga_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (name, value, saga_id)
);
CREATE INDEX saga_term_saga ON stage.saga_term (saga_id);

-- What people did. Apart from the journal, and never dropped with it.
CREATE TABLE stage.audit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     float8 NOT NULL,
    actor  text NOT NULL,
    act    text NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    before text NOT NULL,
    after  text NOT NULL
);
CREATE INDEX audit_target ON stage.audit (target, number);
