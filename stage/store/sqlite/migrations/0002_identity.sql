-- Which database this is (rule 33). The one row is written when the database is made.
CREATE TABLE stage_identity (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    id             TEXT    NOT NULL,
    stage          TEXT    NOT NULL,
    born_at        REAL    NOT NULL,
    generation     INTEGER NOT NULL CHECK (generation >= 1),
    release        TEXT    NOT NULL,
    restored_as_of REAL,
    restored_at    REAL,
    released_at    REAL
);

-- What neighbours asked of sagas that this database must have lost (protocol 3.4).
CREATE TABLE lost_saga (
    saga_id       TEXT NOT NULL,
    requested_by  TEXT NOT NULL,
    reason        TEXT NOT NULL,
    first_sent_at REAL,
    asked_at      REAL NOT NULL,
    PRIMARY KEY (saga_id, requested_by)
) WITHOUT ROWID;
