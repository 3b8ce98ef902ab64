-- Keeps what an author runs from the tables of the stage, behind every view, function and name. The
-- writer says in each transaction that an author's statements run in it, and marks its own: see
-- store/postgres/statements.py. Where nobody says so, as a release before this one does not, and in
-- a session of a person, everything is let be. A condition of the trigger would be parsed anew for
-- each statement, which takes five times as long as this function.
CREATE FUNCTION stage.refuse_author() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('stage.author', true) = 'on'
        AND NOT pg_catalog.starts_with(pg_catalog.current_query(), '/* stage */')
    THEN
        RAISE EXCEPTION USING DETAIL = 'stage.refuse_author', MESSAGE =
            TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME
            || ' is a table of the stage, and its journal is the one truth about a saga: write to a'
            || ' table of your own migrations, under another name';
    END IF;
    RETURN NULL;
END
$$;

-- The tables in the order in which a batch takes them.
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.writer_batch
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.saga
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.journal
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.signal
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.saga_term
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.replica
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.identity
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.lost_saga
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.reconciled
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.payload_key
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.audit
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.pause
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.sweep
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.sweep_saga
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.task
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.dropped
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.act_key
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
CREATE TRIGGER refuse_author BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stage.migration
    FOR EACH STATEMENT EXECUTE FUNCTION stage.refuse_author();
