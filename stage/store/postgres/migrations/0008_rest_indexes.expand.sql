-- stage: outside a transaction
-- The indexes of `rested_at`. To build one over millions of sagas takes a while, and in a
-- transaction all that use the table would wait for it (decision 0073). What an upgrade that was
-- cut off has left is dropped first: an index that is not whole is written to, and never read.

-- Sagas that were over before `rested_at` was there. It is empty once they are closed.
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_unmarked;
CREATE INDEX CONCURRENTLY saga_unmarked ON stage.saga (accepted_at)
    WHERE rested_at IS NULL AND due_at IS NULL AND closed_at IS NULL;

-- The janitor asks for what is over and still has its undo data.
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_over;
CREATE INDEX CONCURRENTLY saga_over ON stage.saga (rested_at)
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND state IN ('completed', 'compensated');
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_closable;

-- What a neighbour asks for after a restore, closed sagas too. What runs is found by `saga_owner` and `saga_rests`.
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_rested;
CREATE INDEX CONCURRENTLY saga_rested ON stage.saga (rested_at, id)
    WHERE rested_at IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_changed;

-- Operators ask how much waits, by cause, step and peer, and since when.
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_places;
CREATE INDEX CONCURRENTLY saga_places ON stage.saga (parked_cause, step, peer, state, rested_at)
    WHERE step <> '' OR parked_cause <> '';
DROP INDEX CONCURRENTLY IF EXISTS stage.saga_place;
