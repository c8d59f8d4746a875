//! The harness itself: what becomes of cases whose VM dies.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use husk_tests::agent_bed::{Bed, Container};

#[test]
fn end_of_the_vm_fails_a_case_that_waits_for_it() {
    if crate::bed().is_none() {
        return;
    }
    let bed = Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let container = Container::sh("echo ready; sleep 1000");
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
    });
    eprintln!("the console that follows is that of a VM which this case kills");
    bed.pull_plug();
    // Neither call would come back before its deadline, if at all.
    let wait = || bed.block_on(bed.wait(&container.id, ""));
    assert!(!matches!(catch_unwind(AssertUnwindSafe(wait)), Ok(Ok(_))));
    let never = || bed.block_on(std::future::pending::<()>());
    let panic = catch_unwind(AssertUnwindSafe(never)).unwrap_err();
    let words = panic.downcast_ref::<String>().unwrap();
    assert!(words.contains("the VM has ended with"), "{words}");
}
