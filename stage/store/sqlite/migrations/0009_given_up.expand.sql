-- Sagas that a person forgot before they had ended well: those that are still to be closed, and those
-- that were, which do not count any more.
CREATE INDEX saga_given_up ON saga (state)
    WHERE closed_at IS NULL AND due_at IS NULL AND parked = ''
        AND (state IN ('active', 'compensating')
            OR (state = 'failed_to_compensate' AND answer_status = 410));
CREATE INDEX saga_out ON saga (state)
    WHERE closed_at IS NOT NULL AND state IN ('active', 'compensating', 'failed_to_compensate');
