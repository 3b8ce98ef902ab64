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
-- closed, and have an index of their own.
UPDATE stage.saga SET rested_at = updated_at WHERE step <> '' OR parked <> '';

-- Room on each page for the next two versions of its rows.
ALTER TABLE stage.saga SET (fillfactor = 50);
