-- Mail is for one run of a saga: the epoch that it had when the mail was left. NULL is from a release
-- that does not say it.
ALTER TABLE stage.signal ADD COLUMN epoch bigint;
