-- What operators hold, and until when (core.pause). `way` is empty where both directions are held.
CREATE TABLE stage_pause (
    target   TEXT NOT NULL,
    way      TEXT NOT NULL,
    at       REAL NOT NULL,
    until_at REAL NOT NULL,
    actor    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (target, way)
) WITHOUT ROWID;
