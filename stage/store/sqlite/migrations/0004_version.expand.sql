-- The version of the stage that accepted a saga (rule 32): a release leaves newer ones alone.
ALTER TABLE saga ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
