//! The balloon: virtio 1.2 §5.5. The host sets a target, we follow.

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, Queue, kind};
use crate::guest::{boot, clock};

pub const CASES: Cases = &[
    ("balloon", balloon),
    ("balloon-reporting", reporting),
    ("balloon-malformed", malformed),
    ("balloon-suicide", suicide),
];

/// Features. virtio 1.2 §5.5.3.
const F_STATS: u64 = 1 << 1;
const F_FREE_PAGE_HINT: u64 = 1 << 3;
const F_REPORTING: u64 = 1 << 5;
/// Fields. virtio 1.2 §5.5.4.
const TARGET: u64 = 0;
const ACTUAL: u64 = 4;
/// Where the balloon's pages come from.
const AREA: u64 = 48 << 20;
const BATCH: u32 = 256;

struct Balloon {
    device: Device,
    inflate: Queue,
    deflate: Queue,
    reporting: Option<Queue>,
    list: u64,
}

impl Balloon {
    #[track_caller]
    fn start() -> Self {
        let device = Device::find(kind::BALLOON);
        let features = device.negotiate(F_STATS | F_FREE_PAGE_HINT | F_REPORTING);
        let inflate = device.queue(0, 16, features);
        let deflate = device.queue(1, 16, features);
        // Queues of features that are not there have no number.
        let mut next = 2;
        for feature in [F_STATS, F_FREE_PAGE_HINT] {
            if features & feature != 0 {
                device.queue(next, 16, features);
                next += 1;
            }
        }
        let has_reporting = features & F_REPORTING != 0;
        let reporting = has_reporting.then(|| device.queue(next, 32, features));
        device.ready();
        Self { device, inflate, deflate, reporting, list: memory::take(PAGE) }
    }

    /// Gives pages from the area's start on to the host, or takes them back.
    fn pages(&mut self, from: u32, count: u32, inflate: bool) {
        let first = u32::try_from(AREA / PAGE).expect("the area is below 16 TiB") + from;
        let mut done = 0;
        while done < count {
            let batch = BATCH.min(count - done);
            for nth in 0..batch {
                memory::write32(self.list + 4 * u64::from(nth), first + done + nth);
            }
            let queue = if inflate { &mut self.inflate } else { &mut self.deflate };
            queue.ask(&[Buffer::out(self.list, 4 * batch)]);
            done += batch;
        }
    }

    #[track_caller]
    fn wait_for_target(&self, wanted: impl Fn(u32) -> bool) -> u32 {
        let end = clock::after_ms(clock::PATIENCE_MS);
        loop {
            let target = self.device.config32(TARGET);
            if wanted(target) {
                return target;
            }
            assert!(!end.is_past(), "the target stays at {target} pages");
        }
    }
}

/// Uses memory, gives it to the host as it wants, and uses it again when it may.
fn balloon() {
    let mut balloon = Balloon::start();
    let len = boot::number("mib").unwrap_or(32) << 20;
    memory::fill(AREA, 0xaa, len);
    say!("filled {len}");
    let pages = balloon.wait_for_target(|target| target > 0);
    assert_eq!(u64::from(pages) * PAGE, len, "the host wants all of it");
    balloon.pages(0, pages, true);
    balloon.device.set_config32(ACTUAL, pages);
    assert_eq!(balloon.device.config32(ACTUAL), pages, "the size that we have said");
    say!("inflated {pages}");
    balloon.wait_for_target(|target| target == 0);
    balloon.pages(0, pages, false);
    balloon.device.set_config32(ACTUAL, 0);
    memory::pattern(AREA, len, 1);
    memory::expect_pattern(AREA, len, 1);
    say!("deflated");
}

/// Memory that is free is reported, and its next use finds zeroes or what was there. A target is
/// the host's word that it has looked, and none the next.
fn reporting() {
    let mut balloon = Balloon::start();
    let len = boot::number("mib").unwrap_or(16) << 20;
    memory::fill(AREA, 0xaa, len);
    say!("filled {len}");
    balloon.wait_for_target(|target| target > 0);
    let queue = balloon.reporting.as_mut().expect("free page reporting is offered");
    let block: u64 = 2 << 20;
    for offset in (0..len).step_by(2 << 20) {
        queue.ask(&[Buffer::fill(AREA + offset, u32::try_from(block).unwrap_or(0))]);
    }
    say!("reported {len}");
    balloon.wait_for_target(|target| target == 0);
    for offset in (0..len).step_by(4096) {
        let word = memory::read64(AREA + offset);
        assert!(word == 0 || word == 0xaaaa_aaaa_aaaa_aaaa, "{word:#x}");
    }
    memory::pattern(AREA, len, 2);
    memory::expect_pattern(AREA, len, 2);
}

/// Pages that are no memory, lists of odd lengths, and reports of what is not there.
fn malformed() {
    let mut balloon = Balloon::start();
    let list = balloon.list;
    memory::fill(AREA, 0x33, PAGE);
    for page in [0xc_0000, 0xfee00, 0xffff_ffff, 0x7fff_ffff_u32] {
        memory::write32(list, page);
        for len in [4, 3, 1, 0] {
            balloon.inflate.ask(&[Buffer::out(list, len)]);
            balloon.deflate.ask(&[Buffer::out(list, len)]);
        }
        balloon.inflate.ask(&[Buffer::fill(list, 4)]);
    }
    // Written first, then the same page a thousand times.
    let page = u32::try_from(AREA / PAGE).expect("a page");
    for nth in 0..1024 {
        memory::write32(list + nth * 4, page);
    }
    balloon.inflate.ask(&[Buffer::out(list, 4096)]);
    balloon.device.set_config32(ACTUAL, u32::MAX);
    balloon.device.set_config32(TARGET, 7);
    if let Some(queue) = balloon.reporting.as_mut() {
        for (at, len) in [(AREA, 0), (AREA + 1, 4096), (AREA, 100), (AREA, 4095)] {
            memory::fill(AREA, 0x33, 2 * PAGE);
            queue.ask(&[Buffer::fill(at, len)]);
            // Bytes outside of whole reported pages are nobody's to take.
            assert_eq!(memory::read8(AREA), 0x33, "at {at:#x} {len}");
        }
        queue.ask(&[Buffer::out(AREA, 4096)]);
    }
    memory::pattern(AREA, PAGE, 4);
    memory::expect_pattern(AREA, PAGE, 4);
}

/// Gives everything to the host: its code, its tables, the rings by which it says so.
fn suicide() {
    let mut balloon = Balloon::start();
    let mib = boot::number("mib").expect("mib=N is the guest's memory");
    say!("goodbye");
    let all = u32::try_from((mib << 20) / PAGE).expect("memory is below 16 TiB");
    for nth in 0..all {
        // From the end on: the list goes before the code does.
        memory::write32(balloon.list, all - 1 - nth);
        balloon.inflate.ask(&[Buffer::out(balloon.list, 4)]);
    }
}
