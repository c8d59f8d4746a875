//! The virtio console.

use husk_tests::bare_bed::Setup;

use super::pass;

#[test]
fn output_arrives_whole_and_in_order() {
    let setup = Setup { rng: false, console: true, ..Setup::new("console") };
    let Some(ended) = pass(&setup) else { return };
    assert_eq!(ended.console, "one buffer\nseveral buffers\none buffer\n");
}

#[test]
fn flood_does_not_hold_the_guest_up() {
    let setup = Setup { rng: false, console: true, ..Setup::new("console-flood") };
    pass(&setup);
}
