"""Select the tests that `make test` and `make e2e` run, and those that only `make test-all` runs.

The first two run tests of tests/unit, tests/contract, tests/fuzz and bench/tests that are not marked `extended`, and tests of
tests/cluster that need only an API server. Of the tests that start real processes they run those of this list: one for each
promise. This module marks the others `extended`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]

GATE: Final[dict[str, tuple[str, ...]]] = {
    # A canary is promoted, aborted and rolled back under load. Replica, agent, Serve and reconciler die. No request is lost.
    "integration/no_request_lost/test_no_request_lost.py": (
        "test_a_canary_by_time_and_by_hand_with_the_reconciler_killed_in_its_middle",
        "test_an_aborted_canary_takes_its_share_back_and_stable_gets_it",
        "test_a_rollback_to_the_revision_before",
        "test_more_and_fewer_replicas_with_one_killed_between",
        "test_a_killed_agent",
        "test_a_killed_serve_controller",
        "test_every_request_is_accounted_for",
    ),
    # Evidence promotes a good canary and rolls back bad ones; agent and operator die meanwhile.
    "integration/evidence/test_evidence_rollouts.py": (
        "test_a_dead_candidate_is_taken_back_before_there_is_any_statistics_of_it",
        "test_the_agent_and_the_operator_die_in_the_middle",
        "test_a_running_rollout_says_what_it_waits_for",
        "test_nonsense_is_refused_and_a_rollout_goes_on_collecting",
        "test_a_candidate_that_fails_for_some_inputs_is_rolled_back",
        "test_a_good_candidate_is_promoted_by_evidence_alone",
    ),
    # Bad manifests, models, requests and commands are refused with a reason, and lose nothing.
    "integration/bad_input/test_bad_input.py": (
        "test_a_manifest_that_breaks_a_rule_is_refused_with_field_value_and_limit",
        "test_an_experiment_that_breaks_a_rule_is_refused_alike",
        "test_a_foreign_object_with_a_childs_name_is_left_alone",
        "test_a_model_that_cannot_be_served_says_why",
        "test_the_good_one_among_them_serves",
        "test_a_bad_body_gets_problem_details_that_name_the_input",
        "test_a_bad_binary_tensor_gets_problem_details_that_name_it",
        "test_a_bad_request_of_the_protocol_gets_problem_details_that_name_it",
        "test_a_bad_call_gets_a_status_that_names_the_input",
        "test_a_bad_path_or_method_gets_problem_details",
        "test_what_is_no_request_is_answered_400",
        "test_a_second_revision_that_cannot_start_takes_nothing_from_the_first",
        "test_a_command_that_makes_no_sense_is_rejected_and_says_why",
    ),
    # A model is served on real Ray, and real clients speak each protocol.
    "integration/runtime/test_serve.py": (
        "test_a_replica_answers_below_its_prefix",
        "test_clients_of_the_protocol_through_serve",
    ),
    "integration/runtime/test_through_the_edge.py": ("test_grpc_and_rest_give_the_same_answers_and_are_counted_alike",),
    # The demo of the README.
    "integration/demo/test_demo.py": ("test_the_demo_shows_a_canary_and_a_refusal_without_losing_a_request",),
    # The edge routes, splits and counts every request once, and survives kill -9.
    "integration/edge/test_routing.py": (),
    "integration/edge/test_split.py": (),
    "integration/edge/test_ends.py": (),
    "integration/edge/test_units.py": (
        "test_a_cookie_is_the_unit_and_is_issued_where_there_is_none",
        "test_a_value_in_the_body_is_the_unit",
        "test_blocks_groups_and_slow_answers_are_reported_on_request",
    ),
    "integration/edge/test_replicas.py": (
        "test_a_replica_killed_under_load_fails_no_request",
        "test_a_removed_replica_finishes_what_it_has",
        "test_replicas_come_and_go_under_load",
    ),
    "integration/edge/test_restarts.py": (
        "test_the_agent_dies_under_load_and_the_next_one_accounts_for_every_request",
        "test_a_bad_document_changes_nothing_and_says_why",
        "test_a_reload_under_load_fails_nothing_and_loses_nothing",
        "test_haproxy_restarts_with_what_was_in_force_even_without_an_agent",
    ),
    "integration/edge/test_cold_starts.py": ("test_a_hundred_requests_at_zero_get_a_hundred_answers",),
    "integration/edge/test_admission.py": (
        "test_no_framing_smuggles_a_second_request",
        "test_headers_in_disguise_are_taken_away",
    ),
    "integration/edge/test_authentication.py": ("test_only_who_has_a_key_is_let_in_and_no_replica_sees_it",),
    "integration/edge/test_tls.py": ("test_each_host_has_its_certificate_and_the_client_can_check_it",),
    "integration/edge/test_grpc.py": (
        "test_a_client_of_the_protocol_is_served_and_the_edge_names_the_application",
        "test_every_end_of_a_call_counts_as_what_it_is",
    ),
    "integration/edge/test_feedback.py": (
        "test_an_outcome_is_counted_for_the_arm_and_epoch_of_its_exposure",
        "test_what_was_acknowledged_before_an_agent_was_killed_is_counted_once",
        "test_what_is_no_feedback_is_refused_and_counted",
    ),
    # An application asks which arm a unit is in.
    "integration/edge/test_ofrep.py": (
        "test_units_outside_the_exposure_and_in_each_arm",
        "test_the_client_of_openfeature_works_as_it_is",
    ),
    "integration/edge/test_shadow.py": (
        "test_a_copy_is_the_request_without_credentials_and_its_pair_is_compared",
        "test_whatever_a_candidate_does_no_caller_waits_for_it",
    ),
    # The operator's process hands over its Lease, also when it is killed.
    "integration/operator_process/test_hand_over.py": (),
    # An Experiment on a real operator, edge and store drops the arm that has gone.
    "integration/local_experiments/test_experiments.py": ("test_an_arm_that_is_gone_wins_nothing_by_later_outcomes",),
    # A rollout whose outcomes are worse goes back, on the same parts.
    "integration/local_experiments/test_outcome_rollouts.py": (),
    # Local mode finds, adopts and ends its processes.
    "integration/local/test_process_table.py": (),
    # Models come from stores whole or not at all.
    "integration/sources/test_cache.py": (),
    "integration/sources/test_hostile_store.py": (),
    # The chart is installed, upgraded and removed.
    "cluster/test_chart.py": (),
    # Digits are served by name, promoted, and rolled back on evidence while an edge and the operator die.
    "cluster/test_node.py": (),
    "cluster/test_serving.py": (),
    "cluster/test_serving_chaos.py": ("test_a_step_outlives_its_operator_its_head_a_worker_and_an_edge",),
    "cluster/test_serving_end.py": (),
}


def pytest_configure() -> None:
    """Refuse a list that names what does not exist: the gate would lack it unnoticed."""
    if unknown := unknown_tests(GATE):
        raise pytest.UsageError(
            f"tests/support/tiers.py: no such test: {', '.join(unknown)}; rename or remove it there"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the gate leaves out."""
    for item in items:
        if _starts_processes(item) and not _gates(item):
            item.add_marker(pytest.mark.extended)


def unknown_tests(gate: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return files and tests of a list that are not in the tree."""
    texts = {path: (TESTS / path).read_text() if (TESTS / path).exists() else None for path in gate}
    missing = [path for path, text in texts.items() if text is None]
    return missing + [
        f"{path}::{name}" for path in gate for name in gate[path] if f"def {name}(" not in (texts[path] or "")
    ]


def _starts_processes(item: pytest.Item) -> bool:
    folder = _file(item).partition("/")[0]
    return folder in ("integration", "nodes") or (
        folder == "cluster" and "cluster" in getattr(item, "fixturenames", ())
    )


def _gates(item: pytest.Item) -> bool:
    names = GATE.get(_file(item))
    return names is not None and (not names or _name(item) in names)


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""


def _name(item: pytest.Item) -> str:
    return getattr(item, "originalname", item.name)
