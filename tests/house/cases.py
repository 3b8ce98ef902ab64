"""The kinds of failure that people reported, and the tests that hold each on the guarantees page.

Each kind is one line of what was seen; the tests stand on docs/guarantees.md under "What happens
when", or among the hard cases above it.
"""

from __future__ import annotations

from typing import Final

CASES: Final[dict[int, dict[str, tuple[str, ...]]]] = {
    1: {
        "a gateway's no": ("test_a_no_that_is_not_shipping_s_own_is_compensated_there_first",),
        "a gateway's page": (
            "test_an_answer_of_a_gateway_for_shipping_is_unknown_and_asked_again",
            "test_a_gateway_that_never_lets_shipping_answer_ends_compensated_everywhere",
        ),
        "upwards": ("test_a_no_that_is_not_the_word_of_the_stage_is_undone_there_first",),
        "a real gateway": ("test_the_books_balance_behind_a_real_nginx",),
    },
    2: {
        "no word": ("test_an_answer_to_compensate_that_is_not_shipping_s_own_is_asked_again",),
        "for long": (
            "test_answers_that_are_nobody_s_word_are_asked_again_for_a_while_then_park_it",
        ),
    },
    3: {
        "the real outcome": (
            "test_a_reused_id_of_an_executed_saga_says_executed",
            "test_a_reused_id_of_a_compensated_saga_says_compensated",
            "test_a_reused_id_of_a_running_saga_says_in_progress",
        ),
        "1 for 1.0": ("test_a_number_written_otherwise_is_the_same_payload",),
        "a mangled repeat": ("test_a_mangled_repeat_says_nothing_of_the_saga",),
        "a no that lasts": ("test_a_saga_that_was_refused_never_runs",),
    },
    4: {
        "down for a second": ("test_an_api_that_was_down_for_a_second_costs_no_saga",),
        "forward": ("test_an_outage_on_the_way_forward_is_outlasted",),
        "back": ("test_an_outage_on_the_way_back_is_outlasted",),
        "alerts": ("test_every_alert_fires_when_it_should_and_only_then",),
        "500 undos": ("test_after_ten_minutes_without_its_api_all_undos_keep_to_the_rate",),
    },
    5: {"5,000 undos": ("test_5000_undos_against_an_api_that_answers_500_are_bounded",)},
    6: {
        "a wrong path": (
            "test_a_refund_to_a_wrong_path_goes_to_the_right_one_when_it_is_ordered_anew",
        ),
        "a rotated token": (
            "test_a_rotated_token_is_used_by_the_attempts_after_it_and_lies_nowhere",
        ),
        "errors by key": ("test_an_api_that_keeps_errors_by_key_heals_with_a_new_key",),
    },
    7: {
        "a stage renamed": ("test_a_stage_renamed_while_a_charge_is_in_doubt_makes_one_charge",),
        "an API renamed": (
            "test_refunds_of_earlier_sagas_go_to_the_api_that_charged_them",
            "test_an_api_that_changed_unsaid_is_not_asked_for_the_refund",
        ),
        "rolled back": ("test_a_release_without_the_compensation_never_says_compensated",),
        "a step renamed": ("test_a_renamed_step_is_shown_as_it_stands_and_no_verb_fails",),
    },
    8: {
        "a backup": (
            "test_a_backup_put_back_knows_no_saga_since_then",
            "test_a_lost_saga_is_adopted_and_shown_as_may_stand",
            "test_a_saga_of_the_backup_does_not_go_forward",
        ),
        "a relative path": (
            "test_a_relative_path_from_another_folder_makes_no_database_in_silence",
        ),
        "a downstream": ("test_an_unknown_saga_of_a_downstream_is_answered_409",),
        "read-only": ("test_a_file_that_is_read_only_at_start_is_written_to_once_it_can_be",),
        "replaced": ("test_a_file_swapped_under_a_run_is_noticed_and_not_written_to",),
    },
    9: {
        "8 days ahead": ("test_a_clock_8_days_ahead_for_a_while_drops_no_undo_data",),
        "at start": (
            "test_an_undo_is_not_given_up_by_a_process_that_starts_with_a_wrong_clock",
            "test_nothing_waits_for_an_instant_that_a_wrong_clock_has_written",
        ),
        "too early": ("test_a_saga_that_came_too_late_never_runs",),
    },
    10: {
        "never ends": (
            "test_a_transaction_that_never_ends_is_reported_and_does_not_hold_the_exit",
        ),
        "kills": (
            "test_code_that_kills_before_anything_is_journaled_is_parked_at_the_third_start",
        ),
        "exits": ("test_an_exit_in_author_code_ends_its_step_and_not_the_process",),
        "frozen": ("test_a_frozen_process_takes_the_answers_that_had_arrived",),
        "neighbours": ("test_the_crashes_of_one_saga_do_not_spend_the_attempts_of_others",),
    },
    11: {
        "a rebuild": ("test_a_table_that_is_rebuilt_keeps_its_child_rows",),
        "an expansion": (
            "test_an_expansion_is_applied_while_sagas_run_and_the_old_code_starts_on_it",
        ),
    },
    12: {
        "202 for ever": ("test_a_202_for_ever_is_asked_less_and_less_and_given_up_at_last",),
    },
    13: {
        "a downstream": (
            "test_a_downstream_that_is_gone_for_good_is_given_up_and_the_rest_undone",
        ),
        "a step": ("test_a_saga_whose_version_is_declared_nowhere_is_ended_by_abandon",),
    },
    14: {
        "the answer": ("test_another_upstream_does_not_get_the_answer_of_the_first",),
        "the undo": ("test_another_upstreams_compensate_does_not_undo_it",),
    },
    15: {
        "pages": ("test_damaged_pages_make_it_not_ready_for_good",),
        "idle": ("test_an_idle_stage_finds_out_that_it_cannot_write",),
        "integrity": ("test_a_file_that_is_damaged_at_start_is_found_by_reading_all_of_it",),
    },
    16: {
        "kept connections": ("test_a_connection_that_ends_as_the_request_arrives_parks_nothing",),
    },
    17: {
        "overwritten": ("test_a_context_that_holds_the_stages_own_member_is_refused",),
        "rounded": ("test_a_malformed_body_is_refused",),
        "too large": ("test_a_context_without_room_is_refused_before_the_charge",),
        "a slow clock": ("test_a_neighbour_with_a_slow_clock_is_served",),
        "a prefix": ("test_mounted_below_a_path_it_answers_with_its_own_addresses",),
        "waits": ("test_a_look_that_waits_returns_at_the_end",),
        "a lock": (
            "test_a_late_failure_does_not_call_the_asker_back",
            "test_an_asker_that_holds_a_lock_is_answered_before_it_is_asked_in_turn",
        ),
        "hosts and ports": ("test_neighbours_are_not_shown_addresses_or_texts_of_exceptions",),
    },
    18: {
        "a lost run": ("test_a_plain_compensate_is_no_lost_run",),
        "counters": (
            "test_a_saga_that_could_not_be_undone_counts_as_parked",
            "test_a_parked_doubt_is_in_doubt",
        ),
        "stands": (
            "test_an_effect_in_doubt_may_stand_and_does_not_stand",
            "test_an_effect_that_is_known_stands",
        ),
    },
}
"""By the number of the case: each part of it, and its tests."""
