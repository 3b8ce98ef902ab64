-- When a saga last changed, while it does not run; NULL while it does. Indexes have this instant in
-- place of `updated_at`, so that the saves of a run touch no index (decision 0063).
ALTER TABLE stage.saga ADD COLUMN rested_at float8;

-- A trigger, so that what the release before this one writes is marked too.
CREATE FUNCTION stage.mark_rest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.rested_at := CASE
        WHEN NEW.due_at IS NULL OR NEW.step <> '' OR NEW.parked_cause <> '' THEN NEW.updated_at
    END;
    RETURN NEW;
END
$$;
CREATE TRIGGER saga_rest
    BEFORE INSERT OR UPDATE OF updated_at, due_at, step, parked_cause ON stage.saga
    FOR EACH ROW WHEN (NEW.rested_at IS DISTINCT FROM CASE
        WHEN NEW.due_at IS NULL OR NEW.step <> '' OR NEW.parked_cause <> '' THEN NEW.updated_at
    END) EXECUTE FUNCTION stage.mark_rest();

-- What waits is marked here. Sagas that were over before are many: they keep NULL until they are
-- closed, and have an index of their own, which is empty from then on.
UPDATE stage.saga SET rested_at = updated_at WHERE step <> '' OR parked <> '';
CREATE INDEX saga_unmarked ON stage.saga (accepted_at)
    WHERE rested_at IS NULL AND due_at IS NULL AND closed_at IS NULL;

-- The janitor asks for what is over and still has its undo data.
DROP INDEX stage.saga_closable;
CREATE INDEX saga_closable ON stage.saga (rested_at)
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND state IN ('completed', 'compensated');

-- What a neighbour asks for after a restore. What runs is found by `saga_owner` and `saga_rests`.
DROP INDEX stage.saga_changed;
CREATE INDEX saga_changed ON stage.saga (rested_at, id)
    WHERE closed_at IS NULL AND rested_at IS NOT NULL;

-- Operators ask how much waits, by cause, step and peer, and since when.
DROP INDEX stage.saga_place;
CREATE INDEX saga_place ON stage.saga (parked_cause, step, peer, state, rested_at)
    WHERE step <> '' OR parked_cause <> '';

-- Room on each page for the next two versions of its rows.
ALTER TABLE stage.saga SET (fillfactor = 50);
