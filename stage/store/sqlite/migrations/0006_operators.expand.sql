-- The step and the peer that a saga waits for, empty while it waits for nothing (core.place).
ALTER TABLE saga ADD COLUMN step TEXT NOT NULL DEFAULT '';
ALTER TABLE saga ADD COLUMN peer TEXT NOT NULL DEFAULT '';

-- Operators ask what waits or is parked, and how much of it by cause, step and peer.
CREATE INDEX saga_waits ON saga (id) WHERE step <> '' OR parked <> '';
CREATE INDEX saga_place ON saga (parked_cause, step, peer, state, updated_at)
    WHERE step <> '' OR parked_cause <> '';

-- The business numbers that an author declared as indexed, and the trace id beside them.
CREATE TABLE saga_term (
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    saga_id TEXT NOT NULL,
    PRIMARY KEY (name, value, saga_id)
) WITHOUT ROWID;
CREATE INDEX saga_term_saga ON saga_term (saga_id);

-- What people did. Apart from the journal, and never dropped with it. AUTOINCREMENT: a number that
-- was used once names that act for ever.
CREATE TABLE stage_audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at     REAL NOT NULL,
    actor  TEXT NOT NULL,
    act    TEXT NOT NULL,
    target TEXT NOT NULL,
    reason TEXT NOT NULL,
    before TEXT NOT NULL,
    after  TEXT NOT NULL
);
CREATE INDEX stage_audit_target ON stage_audit (target, number);
