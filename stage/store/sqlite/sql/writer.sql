-- The statements of the writer: batches, savepoints, and the settings of a connection.

-- name: begin_batch
-- Take the write lock now rather than at the first write.
BEGIN IMMEDIATE;

-- name: number_batch
-- Write the number of this batch, so that a COMMIT that raised can be settled (rule 8).
UPDATE writer_batch SET number = ?1 WHERE one = 1;

-- name: commit_batch
-- Make the batch durable: the one fsync that its units share.
COMMIT;

-- name: drop_batch
-- Roll the whole batch back.
ROLLBACK;

-- name: last_batch
-- The number of the last batch that landed.
SELECT number FROM writer_batch WHERE one = 1;

-- name: begin_part
-- Mark the place to which a unit, or an attempt within it, can be undone.
SAVEPOINT part;

-- name: keep_part
-- Keep the writes since the mark.
RELEASE part;

-- name: undo_part
-- Undo the writes since the mark; the mark stays until it is released.
ROLLBACK TO part;

-- name: busy_timeout
-- How long to wait for another process that holds the write lock, in milliseconds.
PRAGMA busy_timeout = 5000;

-- name: journal_mode
-- Readers never wait for the writer.
PRAGMA journal_mode = WAL;

-- name: synchronous
-- A commit that returned survives a loss of power.
PRAGMA synchronous = FULL;

-- name: temp_store
-- Undo data of a savepoint stays in memory: a batch of more than 64 KiB would otherwise write it to
-- the directory for temporary files, which may be full while the disk of the database is not.
PRAGMA temp_store = MEMORY;

-- name: temp_store_file
-- A copy of the whole database does not belong in memory.
PRAGMA temp_store = FILE;

-- name: copy_anew
-- Write every page anew, so that none holds what was deleted, or moved elsewhere (sqlite.org/lang_vacuum.html).
VACUUM;

-- name: empty_log
-- Copy the whole log back, wait for its readers, and cut it to nothing.
PRAGMA wal_checkpoint(TRUNCATE);

-- name: foreign_keys
-- SQLite leaves them off unless asked.
PRAGMA foreign_keys = ON;

-- name: wal_autocheckpoint
-- Pages in the log before the writer copies them back: 16 MiB, so that copying is rare.
PRAGMA wal_autocheckpoint = 4000;

-- name: checkpoint
-- Copy the log back and sync the database file itself.
PRAGMA wal_checkpoint(PASSIVE);
