-- Registrations, leases, claims and mail (ports/ownership.py). The time is that of the database.

-- name: register
-- A new registration of process $3 with a lease of so many seconds; then how many have a valid lease
-- with it, whether it is the oldest of them, the time, and the end of the lease.
WITH made AS (
    INSERT INTO stage.replica (name, lease_until, process)
    VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3) RETURNING id, lease_until
), live AS (
    SELECT count(*) AS others FROM stage.replica
    WHERE NOT dead AND lease_until >= clock_timestamp()
)
SELECT
    made.id, live.others + 1, live.others = 0, extract(epoch FROM clock_timestamp())::float8,
    made.lease_until
FROM made, live;

-- name: renew
-- Extend the lease, unless the registration was declared dead, or the lease ends before $3, as our
-- last renewal left it, or is that of another process than $4: then the database is an older state.
-- As `register` otherwise.
WITH renewed AS (
    UPDATE stage.replica SET lease_until = clock_timestamp() + make_interval(secs => $2)
    WHERE id = $1 AND NOT dead AND lease_until >= $3 AND process = $4 RETURNING id, lease_until
), live AS (
    SELECT count(*) AS others, count(*) FILTER (WHERE id < $1) AS older FROM stage.replica
    WHERE NOT dead AND lease_until >= clock_timestamp() AND id <> $1
)
SELECT
    renewed.id, live.others + 1, live.older = 0, extract(epoch FROM clock_timestamp())::float8,
    renewed.lease_until
FROM renewed, live;

-- name: lacks_lease
-- Whether the renewal of registration $1 until $2 by process $3 is missing. After an hour it may be
-- forgotten; where it was, and is registered again as dead, it has no process.
SELECT $2 > clock_timestamp() - interval '1 hour' AND NOT EXISTS (
    SELECT 1 FROM stage.replica WHERE id = $1 AND lease_until >= $2
        AND (process = $3 OR process IS NULL AND dead AND name = 'forgotten')
);

-- name: has_lease
-- Registration $1 of process $3, where its renewal until $2 is there.
SELECT id FROM stage.replica WHERE id = $1 AND lease_until >= $2 AND process = $3;

-- name: bury
-- Declare dead what has outlived its lease, but $1 itself.
UPDATE stage.replica SET dead = true
WHERE NOT dead AND id <> $1 AND lease_until < clock_timestamp();

-- name: bury_owner
-- Declare one owner dead whose lease is over: whether it is dead now.
WITH buried AS (
    UPDATE stage.replica SET dead = true
    WHERE id = $1 AND NOT dead AND lease_until < clock_timestamp() RETURNING id
)
SELECT EXISTS (SELECT 1 FROM buried)
    OR NOT EXISTS (SELECT 1 FROM stage.replica WHERE id = $1 AND NOT dead);

-- name: leave
-- Give up everything: what this registration, of process $2, owned is claimable at once.
UPDATE stage.replica SET dead = true WHERE id = $1 AND process = $2;

-- name: forget_dead
-- Drop the mail of the dead and of runs that are over, and the registrations of the dead that own
-- nothing any more.
WITH mail AS (
    DELETE FROM stage.signal WHERE
        EXISTS (SELECT 1 FROM stage.replica WHERE replica.id = signal.owner AND replica.dead)
        OR NOT EXISTS (
            SELECT 1 FROM stage.saga WHERE saga.id = signal.saga_id
                AND saga.owner = signal.owner AND saga.epoch = coalesce(signal.epoch, saga.epoch)
        )
)
DELETE FROM stage.replica WHERE dead AND lease_until < clock_timestamp() - interval '1 hour'
    AND NOT EXISTS (SELECT 1 FROM stage.saga WHERE saga.owner = replica.id);

-- name: recall_forgotten
-- Register anew, as dead, each forgotten owner that sagas still have. It slept for hours, or the clock
-- of the server jumped ahead, and it wrote before it renewed its lease. A live one is registered, also
-- where this snapshot is too old to see that. The lease lies ahead, so that its renewal hears of its
-- death and takes the database for no older state.
WITH RECURSIVE owners (id) AS (
    SELECT min(owner) FROM stage.saga WHERE owner IS NOT NULL
    UNION ALL
    SELECT (SELECT min(owner) FROM stage.saga WHERE owner > owners.id)
    FROM owners WHERE owners.id IS NOT NULL
)
INSERT INTO stage.replica (id, name, lease_until, dead) OVERRIDING SYSTEM VALUE
SELECT id, 'forgotten', clock_timestamp() + interval '1 hour', true FROM owners
WHERE id IS NOT NULL AND NOT EXISTS (SELECT FROM stage.replica WHERE replica.id = owners.id)
ON CONFLICT (id) DO NOTHING;

-- name: claim_dead
-- Own at most $2 sagas that need a run and whose owner is dead, of version $3 or an older one.
WITH found AS (
    SELECT saga.id FROM stage.saga JOIN stage.replica ON replica.id = saga.owner
    WHERE replica.dead AND saga.due_at IS NOT NULL AND saga.version <= $3
    ORDER BY saga.due_at LIMIT $2 FOR UPDATE OF saga SKIP LOCKED
)
UPDATE stage.saga SET owner = $1 FROM found WHERE saga.id = found.id
RETURNING saga.due_at, saga.id, saga.length;

-- name: claim_due
-- Own at most $2 sagas that nobody owns and that are due by $4, or at an instant behind $5, which
-- only a wrong clock can have written; of version $3 or an older one.
WITH found AS (
    SELECT id FROM stage.saga
    WHERE owner IS NULL AND due_at IS NOT NULL AND (due_at <= $4 OR due_at > $5)
        AND version <= $3
    ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE stage.saga SET owner = $1 FROM found WHERE saga.id = found.id
RETURNING saga.due_at, saga.id, saga.length;

-- name: own_due
-- Our own sagas that are due.
SELECT due_at, id, length FROM stage.saga
WHERE owner = $1 AND due_at IS NOT NULL AND (due_at <= $4 OR due_at > $5) AND version <= $3
ORDER BY due_at LIMIT $2;

-- name: own_unfinished
-- At most $2 of our own sagas that need a run at any time, of version $3 or an older one.
SELECT due_at, id, length FROM stage.saga
WHERE owner = $1 AND due_at IS NOT NULL AND version <= $3
ORDER BY due_at LIMIT $2;

-- name: release
-- Give up these sagas, and the mail for them, where each has the number of entries in $3 still. A
-- saga that a unit has just now stays ours: its run may be about to begin.
WITH found AS (
    SELECT saga.id FROM stage.saga
    JOIN unnest($2::text[], $3::bigint[]) AS rests (id, length) ON saga.id = rests.id
    WHERE saga.owner = $1 AND saga.length = rests.length
    FOR UPDATE OF saga SKIP LOCKED
), given AS (
    UPDATE stage.saga SET owner = NULL FROM found WHERE saga.id = found.id RETURNING saga.id
)
DELETE FROM stage.signal USING given WHERE signal.saga_id = given.id AND signal.owner = $1;

-- name: release_unread
-- Give up these sagas, and the mail for them, however many entries each has: this release can run
-- none of them. A look of another replica, which locks the row for a moment, is waited for: nothing
-- here would ask again before the saga is due.
WITH found AS (
    SELECT id FROM stage.saga WHERE id = ANY($2::text[]) AND owner = $1 ORDER BY id FOR UPDATE
), given AS (
    UPDATE stage.saga SET owner = NULL FROM found WHERE saga.id = found.id RETURNING saga.id
)
DELETE FROM stage.signal USING given WHERE signal.saga_id = given.id AND signal.owner = $1;

-- name: lengths
-- Number of entries of these sagas, and whether a live replica other than $1 owns them.
SELECT saga.id, saga.length, saga.owner IS DISTINCT FROM $1 AND EXISTS (
    SELECT 1 FROM stage.replica
    WHERE replica.id = saga.owner AND NOT dead AND lease_until >= clock_timestamp()
)
FROM stage.saga WHERE saga.id = ANY($2::text[]);

-- name: post
-- Leave an event for the live other owner of a saga, in its present run. The lock of its row makes
-- certain that the owner is there to find it; no number: there is no such owner.
WITH held AS (
    SELECT saga.id, saga.owner, saga.epoch FROM stage.saga JOIN stage.replica ON replica.id = saga.owner
    WHERE saga.id = $2 AND saga.owner <> $1 AND NOT replica.dead
        AND replica.lease_until >= clock_timestamp()
    FOR UPDATE OF saga
)
INSERT INTO stage.signal (saga_id, owner, event, epoch) SELECT id, owner, $3, epoch FROM held
RETURNING number, epoch;

-- name: unreceived
-- The mail of that number, where it is still there.
SELECT number FROM stage.signal WHERE number = $1;

-- name: mail
-- The mail of a registration for sagas that it still owns, in order. A saga that came to rest, or was
-- released, in the instant in which it was left may be owned again by now: in another run.
SELECT signal.number, signal.saga_id, signal.event, saga.epoch
FROM stage.signal JOIN stage.saga ON saga.id = signal.saga_id
WHERE signal.owner = $1 AND saga.owner = $1 AND saga.epoch = coalesce(signal.epoch, saga.epoch)
ORDER BY signal.number;
