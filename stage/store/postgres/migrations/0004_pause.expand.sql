-- What operators hold, and until when (core.pause). `way` is empty where both directions are held.
CREATE TABLE stage.pause (
    target   text NOT NULL,
    way      text NOT NULL,
    at       float8 NOT NULL,
    until_at float8 NOT NULL,
    actor    text NOT NULL,
    reason   text NOT NULL,
    PRIMARY KEY (target, way)
);
