//! What of the threads no driver can see.

use vm_memory::GuestAddress;

use super::*;
use crate::virtio::blk::core::testing::pending;
use crate::virtio::blk::request::{MAX_DATA_LEN, Segment};
use crate::virtio::testing;

#[test]
fn nothing_is_at_work_after_drain() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MAX_DATA_LEN).unwrap();
    let free: OnThread = Arc::new(|| Ok(()));
    let mut workers = Workers::new(file, &free).unwrap();
    let memory = Arc::new(testing::memory());
    let len = u32::try_from(MAX_DATA_LEN).unwrap();
    for _ in 0..20 {
        for _ in 0..6 {
            let segment = Segment { addr: GuestAddress(0), len };
            let data = Segments::of_guest(&memory, &[segment]).unwrap();
            workers.start(Task::read(pending(), 0, data));
        }
        while workers.shared.lock().busy == 0 && workers.shared.lock().done.is_empty() {
            thread::yield_now();
        }
        workers.drain();
        let state = workers.shared.lock();
        assert_eq!((state.busy, state.waiting.len(), state.done.len()), (0, 0, 0));
        drop(state);
        assert_eq!(Arc::strong_count(&memory), 1, "memory is let go of");
    }
}
