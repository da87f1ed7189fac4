//! The program consul-migrate between real etcd and real Consul.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that panics has failed
#![deny(dead_code)]

use consul_test_support as support;

mod acl;
mod cutover;
mod etcd;
mod fake;
mod grpc;
mod guide;
mod job;
mod lines;
mod odd_keys;
mod operator;
mod program;
mod random;
mod recorded;
mod refusals;
mod reports;
mod rights;
mod statuses;
mod storm;
mod taken;
mod terminal;
mod versions;

use support::consul;
use support::trials::{self, Trials};

fn trials() -> Trials {
    let mut trials = Trials::of("migrate");
    for part in 0..random::PARTS {
        let long = if part == 0 { "" } else { " [long]" };
        let name = format!("random_histories_with_faults_and_kills_end_equal_{part}{long}");
        trials.add(name, move || random::run(part));
    }
    trials.add("an_alarm_is_lifted_late_and_never_under_the_instance_that_relies_on_it", || {
        random::replaced::run();
    });
    trials.add("a_snapshot_that_was_kept_serves_only_its_own_revision", random::kept::run);
    trials.add("a_copy_that_replaces_all_deletes_what_was_before", random::kept::replaces);
    trials.add("what_a_snapshot_has_is_counted_and_a_large_one_is_not_kept", random::kept::count);
    trials.add("a_tail_ends_at_what_the_mapping_refuses", random::refused::run);
    trials.add("a_copy_goes_on_where_all_keys_before_are_written [long]", random::resumed::run);
    trials.add("an_instance_that_lives_is_not_replaced", random::holder::run);
    trials.add("an_instance_is_replaced_at_each_moment [long]", random::overtaken::run);
    trials.add("nothing_is_lost_at_the_moment_of_a_cut_over", random::switched::run);
    trials.add("a_compaction_is_said_and_followed_by_a_new_snapshot", random::compacted::run);
    let always = random::compacted::all_the_time;
    trials.add("a_copy_that_etcd_always_compacts_ends_with_what_helps [long]", always);
    trials.add("a_call_that_is_dropped_is_not_taken_for_another_programs", random::dropped::run);
    trials.add("writes_that_a_proxy_repeats_are_done_once [long]", random::doubled::run);
    trials.add("a_tail_notices_at_each_moment_that_etcd_was_restored", random::restored::a_tail);
    trials
        .add("a_way_back_asks_before_it_overwrites_a_restored_etcd", random::restored::a_way_back);
    let consul = random::restored::consul_under_an_instance;
    trials.add("a_consul_that_is_restored_under_an_instance_is_told_and_goes_on", consul);
    let cluster = random::restored::as_a_new_cluster;
    trials.add("an_etcd_that_is_another_cluster_gets_the_advice_of_its_phase", cluster);
    let switched = random::restored::a_tail_after_the_cut_over;
    trials.add("no_deletion_of_a_restored_etcd_comes_to_consul_after_the_cut_over", switched);
    let beside = random::restored::beside_programs;
    trials.add("a_way_back_of_a_restored_etcd_spares_what_programs_set_meanwhile", beside);
    trials.add(
        "a_consul_that_takes_small_transactions_gets_them [long]",
        random::sizes::small_transactions,
    );
    let bodies = random::sizes::small_bodies;
    trials.add("a_413_of_what_is_before_either_side_makes_requests_smaller [long]", bodies);
    let reads = random::sizes::small_reads;
    trials.add("a_413_of_what_is_before_consul_makes_reads_smaller", reads);
    trials.add("an_idle_prefix_is_not_copied_again_after_a_compaction", random::compacted::idle);
    let rests = random::compacted::while_keys_rest;
    trials.add("a_tail_whose_keys_rest_copies_no_new_snapshot_after_compactions", rests);
    let names = random::url_names::run;
    trials.add("names_that_the_server_refuses_in_urls_are_found_moved_and_moved_back", names);
    let sizes = random::sizes::run;
    trials.add("names_and_values_at_each_limit_are_found_moved_and_moved_back [long]", sizes);
    let recorded = recorded::by_the_one_in_memory;
    trials.add("the_etcd_in_memory_says_what_the_recorded_ones_say", recorded);
    trials.add("rights_are_taken_from_roles_and_given_back [long]", random::roles::run);
    let back = random::roles::given_back::run;
    trials.add("rights_come_back_after_each_end_of_a_cut_over [long]", back);
    trials.add("the_state_of_rights_is_told [long]", random::roles::told::run);
    let told = random::roles::told::are_told_before_they_are_taken;
    trials.add("what_a_cut_over_changes_in_etcd_is_told_before [long]", told);
    let some = random::roles::some_at_once;
    trials.add("many_rights_are_taken_some_at_once_and_given_back", some);
    trials.add("a_move_that_is_finished_leaves_nothing [long]", random::finished::run);
    let consul = random::emptied::consul_before_the_way_back;
    trials.add("a_way_back_asks_before_it_deletes_all_for_an_emptied_consul", consul);
    let etcd = random::emptied::etcd_before_a_new_snapshot;
    trials.add("no_new_snapshot_of_an_emptied_etcd_deletes_all_of_consul", etcd);
    let tails = random::emptied::etcd_under_a_tail_after_the_cut_over;
    trials.add("a_tail_after_the_cut_over_deletes_not_all_for_an_emptied_etcd", tails);
    let marks = random::lost::known_to_etcd;
    trials.add("rights_that_consul_has_forgotten_are_known_to_etcd", marks);
    let restored = random::finished::then_restored;
    trials.add(
        "after_a_finish_that_was_cut_no_way_back_overwrites_what_programs_set [long]",
        restored,
    );
    let alone = random::finished::nothing_else_follows;
    trials.add("nothing_but_a_finish_follows_a_finish_that_has_begun", alone);
    let half = random::finished::after_half_a_rollback;
    trials.add("a_move_is_not_finished_while_its_rollback_is_half_done [long]", half);
    let refuses = random::finished::while_etcd_refuses_writes;
    trials.add("the_end_of_a_move_says_what_etcd_still_refuses", refuses);
    let servers = random::strangers::servers;
    trials.add("nothing_is_changed_in_another_cluster_of_etcd", servers);
    let jobs = random::strangers::jobs;
    trials.add("another_job_changes_nothing_that_programs_use_since_a_cut_over", jobs);
    let meanwhile = random::strangers::that_begin_meanwhile;
    trials.add("a_tail_of_another_job_that_begins_at_the_switch_changes_nothing [long]", meanwhile);
    let ended = random::strangers::that_have_ended;
    trials.add("instances_of_other_jobs_that_have_ended_keep_no_writer_stopped", ended);
    let rights = random::strangers::rights_of_another;
    trials.add("rights_that_another_job_has_taken_are_not_named_as_lost", rights);
    let records = random::strangers::records;
    trials.add("a_record_of_another_version_is_refused_and_kept", records);
    let last = random::strangers::last_requests;
    trials.add("a_cut_over_that_consul_refuses_does_not_keep_writers_stopped", last);
    let indexes = random::strangers::indexes;
    trials.add("a_deletion_after_the_cut_over_spares_what_programs_wrote", indexes);
    trials.add("a_job_whose_etcd_is_gone_is_finished", random::strangers::gone);
    trials.add("writers_are_not_stopped_for_no_keys", random::frozen::for_no_keys);
    trials.add("an_alarm_that_opens_the_cluster_is_refused", random::frozen::that_opens);
    let keys = random::frozen::that_gives_up;
    trials.add("a_cut_over_that_is_given_up_leaves_no_key_in_etcd", keys);
    let right = random::frozen::without_the_right;
    trials.add("an_alarm_that_the_user_may_not_raise_is_refused_before", right);
    let lifted = random::lifted::run;
    trials.add("what_a_cut_over_has_stopped_is_lifted_whatever_consul_says", lifted);
    let lost = random::lost::run;
    trials.add("rights_come_back_or_are_named_when_consul_has_lost_their_record [long]", lost);
    trials.add("a_look_that_takes_long_is_made_seldom", random::rare::looks_that_take_long);
    let keeps = random::rare::deletions_after_a_cut_over;
    trials.add("a_key_that_a_program_has_set_with_the_flags_of_the_job_stays", keeps);
    let between = random::rare::compactions_with_changes_in_between;
    trials.add("a_cut_over_goes_on_if_changes_are_followed_between_compactions", between);
    let left = random::rare::a_server_that_was_left;
    trials.add("a_server_that_was_left_is_asked_again_for_its_cluster", left);
    let collision = random::rare::a_collision_before_the_tail;
    trials.add("a_collision_that_is_over_when_the_tail_begins_is_refused", collision);
    let open = random::rare::a_save_whose_answer_is_lost;
    trials.add("the_error_of_a_later_attempt_says_that_one_may_be_applied", open);
    let next = random::rare::keys_of_the_next_cut_over;
    trials.add("a_way_back_that_is_held_up_leaves_the_keys_of_the_next_cut_over [long]", next);
    let late = random::lost::given_back_late;
    trials.add("what_a_way_back_gives_back_below_the_next_cut_over_is_told [long]", late);
    trials.add("exports_are_read_however_they_are_encoded [long]", random::imports::run);
    trials.add("names_that_are_not_utf8_end_each_verb", random::odd_names::not_utf8);
    let replacements = random::odd_names::replacement_characters;
    trials.add("names_with_a_replacement_character_are_keys_as_others", replacements);
    let come = random::odd_names::that_come_and_go;
    trials.add("a_name_that_comes_and_goes_ends_no_export", come);
    trials.add("names_that_are_no_paths_are_extra_keys", random::odd_names::paths);
    let ends = random::odd_names::paths_are_left_at_the_end;
    trials.add("names_that_are_no_paths_are_left_at_the_end", ends);
    let middle = random::odd_names::values_in_the_middle_of_a_write;
    trials.add("an_export_has_each_value_of_one_moment [long]", middle);
    let killed = random::odd_names::values_whose_write_was_killed;
    trials.add("an_export_names_a_value_whose_write_was_killed [long]", killed);
    let copied = random::odd_names::values_whose_copy_was_killed;
    trials.add("an_export_names_a_value_whose_copy_was_killed [long]", copied);
    let set = random::odd_names::parts_that_programs_set;
    trials.add("parts_that_a_program_has_set_are_whole", set);
    trials.add("names_beside_parts_are_not_parts [long]", random::odd_names::names_beside_parts);
    trials.add(
        "a_value_may_look_like_the_claim_of_a_job",
        random::odd_names::values_that_look_like_a_claim,
    );
    let forgotten = random::strangers::forgotten;
    trials.add("the_alarm_of_a_job_is_its_own_after_consul_was_restored", forgotten);
    let at_once = random::strangers::at_once;
    trials.add("two_cut_overs_at_once_leave_one_alarm_and_go_back", at_once);
    trials.add("the_numbers_of_all_verbs_add_up [long]", random::numbers::run);
    trials.add("a_way_back_ends_beside_programs_that_write", random::beside::run);
    let once = random::beside::transactions_are_done_once;
    trials.add("a_transaction_of_a_way_back_is_done_once [long]", once);
    trials.add("a_way_back_counts_its_work_all_the_time [long]", random::beside::is_counted);
    trials.add("nothing_is_silent_while_a_side_does_not_answer [long]", random::waits::run);
    trials.add("a_tail_says_that_watches_are_not_answered", random::held_up::run);
    trials.add("a_tail_applies_many_changes_in_a_transaction", random::together::run);
    let parts = random::together::in_parts;
    trials.add("a_tail_goes_on_in_the_middle_of_a_revision", parts);
    let large = random::held_up::a_line_is_too_large;
    trials.add("a_line_of_a_watch_that_is_too_large_ends_in_a_new_snapshot", large);
    trials.add("a_request_that_arrives_late_changes_nothing [long]", random::late::run);
    trials.add("a_server_of_etcd_that_is_stuck_is_left", random::silent::run);
    trials.add("a_tail_goes_on_after_answers_that_are_not_etcds", random::between::run);
    let watches = random::between::for_watches_alone;
    trials.add("a_tail_whose_watches_stay_another_programs_ends", watches);
    let count = random::between::a_count_without_a_revision_is_none;
    trials.add("a_count_of_keys_without_a_revision_is_none", count);
    let tokens = random::between::tokens;
    trials.add("a_void_token_that_gets_no_answer_is_replaced", tokens);
    let statuses = statuses::run;
    trials.add("the_exit_status_says_what_has_failed_whatever_answers", statuses);
    let failures = statuses::as_the_schema_says;
    trials.add("the_json_of_each_failure_is_as_the_schema_says_and_a_report", failures);
    trials.add("an_output_that_is_closed_is_not_a_success", statuses::closed);
    trials.add("a_run_goes_on_while_nobody_reads_what_it_says", statuses::held);
    trials.add("a_signal_ends_a_wait_for_a_pipe", statuses::signals);
    trials.add("a_file_that_may_not_be_so_large_is_an_error", statuses::small_files);
    trials.add("a_prefix_that_no_key_has_is_refused_by_its_option", statuses::prefixes);
    let told = statuses::alarms_of_others;
    trials.add("a_plan_says_that_an_alarm_refuses_a_cut_over", told);
    let jobs = statuses::keys_of_other_jobs;
    trials.add("the_status_says_which_side_is_the_truth_beside_another_job", jobs);
    let empty = statuses::empty_variables;
    trials.add("an_empty_environment_variable_counts_as_unset", empty);
    if consul::is_quick() {
        return trials;
    }
    on_versions(&mut trials);
    if let Some(why) = etcd::missing() {
        consul::say_skipped("consul-migrate", &why);
        return trials;
    }
    trials.add("the_recordings_are_those_of_etcd [etcd]", recorded::by_a_real_one);
    for version in ["1.21", "1.8"] {
        let is_missing = consul::is_missing(version, "consul-migrate");
        let mut add = |name: &str, run: fn(&'static str)| {
            trials.add_unless(is_missing, format!("{name}_on_{version}"), move || run(version));
        };
        add("a_storm_and_kills_leave_no_difference", storm::run);
        add("keys_that_consul_does_not_take_are_refused_skipped_or_encoded", odd_keys::run);
        add(
            "a_cut_over_that_is_interrupted_leaves_no_alarm_and_one_that_ends_can_be_undone",
            cutover::run,
        );
        add("the_commands_of_the_guide_move_the_keys_and_go_back", guide::run);
        add("keys_that_acls_hide_are_an_error", acl::run);
        add("a_job_is_held_goes_on_and_survives_compaction", job::run);
    }
    let is_missing = consul::is_missing("1.21", "consul-migrate");
    trials.add_unless(
        is_missing,
        "an_operator_stops_the_writers_and_deletions_are_followed [1.21]",
        || {
            operator::run("1.21");
        },
    );
    let name = "etcd_stays_as_it_is_while_it_is_not_known_whether_a_cut_over_has_ended [1.21]";
    trials.add_unless(is_missing, name, || operator::run_to_unknown_end("1.21"));
    let is_old = is_missing || etcd::binary("3.6").is_err();
    let name = "rights_come_back_or_are_named_when_consul_was_restored [1.21]";
    trials.add_unless(is_old, name, || taken::run("1.21"));
    let name = "a_tail_whose_etcd_is_silent_ends_with_its_patience [1.21]";
    trials.add_unless(is_missing, name, || refusals::run_silent("1.21"));
    let name = "consent_and_progress_are_on_a_terminal [1.21]";
    trials.add_unless(is_missing, name, || terminal::run("1.21"));
    let name = "the_report_of_a_cut_over_is_as_its_schema_says [1.21]";
    trials.add_unless(is_missing, name, || reports::run("1.21"));
    // Three servers of each have much to do: once in a long run.
    if std::env::var_os("LONG").is_some() {
        trials.add_unless(is_missing, "both_leaders_are_killed_in_a_storm [1.21]", || {
            storm::run_without_leaders("1.21");
        });
    }
    for version in ["1.21", consul::SIM] {
        let is_missing = consul::is_missing(version, "consul-migrate");
        let name = format!("an_export_is_imported_exactly_on_{version} [etcd]");
        trials.add_unless(is_missing, name, move || lines::run(version));
    }
    trials.add_unless(is_missing, "each_refusal_of_etcd_is_clear [1.21]", || refusals::run("1.21"));
    trials
}

/// Those that choose their own version of etcd.
fn on_versions(trials: &mut Trials) {
    let has_no_consul = consul::is_missing("1.21", "consul-migrate");
    for version in versions::versions() {
        let why = etcd::binary(version).err();
        if let Some(why) = &why {
            consul::say_skipped("consul-migrate", why);
        }
        let is_missing = has_no_consul || why.is_some();
        for login in versions::Login::ALL {
            let name = format!("each_verb_is_for_{}_on_etcd_{version} [1.21]", login.name());
            trials.add_unless(is_missing, name, move || versions::run(version, login));
        }
        let name = format!("the_page_has_the_rights_of_each_verb_on_etcd_{version} [1.21]");
        trials.add_unless(is_missing, name, move || rights::run(version));
        if *version == "3.6" {
            let name = "the_rights_are_others_where_lists_of_keys_need_one [1.21]";
            trials.add_unless(is_missing, name, move || rights::with_key_lists(version));
        }
    }
}

fn main() {
    trials::run(4, &[trials])
}
