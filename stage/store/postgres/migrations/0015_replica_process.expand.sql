-- The process that registered, by a name that it draws at its start: on a dump that was put back, the
-- numbers of registrations begin again at those of replicas that are up. NULL is from a release that
-- does not say it, and from `recall_forgotten`.
ALTER TABLE stage.replica ADD COLUMN process text;
