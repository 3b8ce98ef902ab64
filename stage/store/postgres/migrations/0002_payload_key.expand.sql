-- The keys under which contents may lie here (ports.codec.Codec.admit): `plain` for none. What was
-- written before this table was in the clear.
CREATE TABLE stage.payload_key (
    id text PRIMARY KEY
);
INSERT INTO stage.payload_key (id) SELECT 'plain' WHERE EXISTS (SELECT 1 FROM stage.saga);
