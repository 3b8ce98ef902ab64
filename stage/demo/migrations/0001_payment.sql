-- One row a saga: what the payment stage itself knows of the payment.
CREATE TABLE payment (
    saga_id   TEXT PRIMARY KEY,
    order_id  TEXT NOT NULL,
    amount    INTEGER NOT NULL CHECK (amount > 0),
    currency  TEXT NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('pending', 'charged', 'released')),
    charge_id TEXT
);
