-- The keys under which contents may lie here (ports.codec.Codec.admit): `plain` for none. What was
-- written before this table was in the clear.
CREATE TABLE stage_payload_key (
    id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO stage_payload_key (id) SELECT 'plain' WHERE EXISTS (SELECT 1 FROM saga);
