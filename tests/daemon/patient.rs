//! Tests that wait most of their time, ten seconds for instance for a file of which nobody tells: side by side, for they
//! would be a minute and more one after another.

use crate::{arrivals, changes, disks, leases, outages, refused, restart, unheard, ways};

/// What is shown by each is told where it stands.
const TESTS: [(&str, fn()); 13] = [
    ("every_tool", arrivals::every_tool_brings_its_file_once_and_whole),
    ("deleted", changes::a_file_that_is_deleted_during_its_run_is_asked_no_more_and_goes_on_when_it_is_back),
    ("files_that_go", changes::files_that_go_leave_their_slots_to_others),
    ("folder_away", disks::a_folder_that_goes_away_and_comes_back_is_waited_for),
    ("lease", leases::who_was_stopped_past_its_lease_does_no_harm),
    ("outage", outages::an_outage_is_waited_out_and_no_line_fails),
    ("no_service", outages::a_service_that_is_none_pauses_and_never_ends_the_daemon),
    ("unreadable", refused::a_file_that_cannot_be_read_is_told_how_to_let_the_daemon_read_it),
    ("moved_away", restart::results_that_were_moved_away_are_not_made_again),
    ("meanwhile", restart::what_happened_meanwhile_is_found_at_the_start),
    ("unheard", unheard::what_nobody_tells_of_is_found_by_scans),
    ("folders", ways::folders_below_are_run_with_recipes_of_their_own),
    ("once", ways::once_drains_and_ends_as_a_filter_would),
];

#[test]
fn all_of_these_hold_side_by_side() {
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let start = |(name, test): (&'static str, fn())| {
            (name, std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, test).unwrap())
        };
        let running: Vec<_> = TESTS.into_iter().map(start).collect();
        running.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "{failed:?} do not hold");
}
