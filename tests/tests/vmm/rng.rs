//! The entropy device.

use husk_tests::bare_bed::Setup;

use super::pass;

#[test]
fn buffers_get_random_bytes_by_poll_interrupt_and_table() {
    for case in ["rng", "rng-interrupt", "rng-indirect"] {
        pass(&Setup::new(case));
    }
}

#[test]
fn request_for_4_gib_gets_64_kib_at_most() {
    pass(&Setup::new("rng-4-gib"));
}

#[test]
fn empty_and_read_only_buffers_are_given_back() {
    pass(&Setup::new("rng-zero-length"));
    pass(&Setup::new("rng-read-only-buffer"));
}
