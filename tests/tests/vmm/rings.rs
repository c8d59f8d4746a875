//! Rings: what all devices have in common.

use husk_tests::bare_bed::Setup;

use super::pass;

#[test]
fn indices_wrap_around_after_65536_chains() {
    pass(&Setup::new("ring-wraps chains=70000"));
    pass(&Setup::new("ring-wraps-event-index chains=70000"));
}

#[test]
fn rings_of_one_of_most_and_of_one_full_chain_work() {
    for case in ["ring-of-one", "ring-of-most", "ring-full", "ring-anywhere"] {
        pass(&Setup::new(case));
    }
}

#[test]
fn interrupts_come_where_they_are_wanted_and_nowhere_else() {
    for case in ["ring-event-index", "ring-no-interrupt", "ring-interrupt-status"] {
        pass(&Setup::new(case));
    }
}

#[test]
fn device_serves_again_after_each_reset_and_not_before() {
    pass(&Setup::new("ring-reset-again"));
}
