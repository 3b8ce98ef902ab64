-- What is on the shelf.
CREATE TABLE stock (
    sku  TEXT PRIMARY KEY,
    free INTEGER NOT NULL CHECK (free >= 0)
);

INSERT INTO stock (sku, free) VALUES ('tea', 10);

-- What a saga took from the shelf, and how it is sent.
CREATE TABLE allocation (
    saga_id   TEXT PRIMARY KEY,
    sku       TEXT NOT NULL REFERENCES stock (sku),
    pieces    INTEGER NOT NULL CHECK (pieces > 0),
    state     TEXT NOT NULL CHECK (state IN ('held', 'released', 'sent')),
    carrier   TEXT,
    pickup_id TEXT
);
