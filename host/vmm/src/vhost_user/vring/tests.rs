//! Tests: rings in memory that a guest could have written.

use nix::fcntl::SealFlag;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::Bytes;

use super::super::memory::tests::memfd;
use super::*;

const FRONT_END: u64 = 0x7f00_0000_0000;
const LEN: u64 = 0x1_0000;
const ADDRESSES: RingAddresses = RingAddresses {
    descriptors: FRONT_END,
    available: FRONT_END + 0x4000,
    used: FRONT_END + 0x8000,
};

fn memory() -> SharedMemory {
    let table = [VhostUserMemoryRegion::new(0x1000_0000, LEN, FRONT_END, 0)];
    SharedMemory::map(&table, vec![memfd(LEN, SealFlag::F_SEAL_SHRINK)]).unwrap()
}

fn null() -> Option<File> {
    Some(File::open("/dev/null").unwrap())
}

fn ready() -> Vring {
    let mut vring = Vring::default();
    vring.set_size(128).unwrap();
    vring.set_addresses(ADDRESSES);
    vring.set_base(5).unwrap();
    vring.set_kick(null());
    vring.set_enabled(true);
    vring
}

#[test]
fn queue_starts_when_it_has_a_kick_and_is_enabled() {
    let memory = memory();
    let mut vring = ready();
    vring.set_enabled(false);
    assert!(!vring.start(&memory, false).unwrap());
    vring.set_enabled(true);
    vring.set_kick(None);
    assert!(!vring.start(&memory, false).unwrap());
    vring.set_kick(null());
    assert!(vring.start(&memory, false).unwrap());
    let queue = vring.running().unwrap();
    assert_eq!((queue.size(), queue.next_avail()), (128, 5));
    assert_eq!(queue.desc_table(), 0x1000_0000);
    assert!(!vring.start(&memory, false).unwrap());
}

#[test]
fn used_ring_goes_on_where_it_was() {
    let memory = memory();
    memory.guest().write_obj(77u16, vm_memory::GuestAddress(0x1000_8002)).unwrap();
    let mut vring = ready();
    vring.start(&memory, true).unwrap();
    let queue = vring.running().unwrap();
    assert_eq!(queue.next_used(), 77);
    assert!(queue.event_idx_enabled());
}

#[test]
fn set_up_of_a_running_queue_is_frozen() {
    let memory = memory();
    let mut vring = ready();
    vring.start(&memory, false).unwrap();
    vring.set_size(1024).unwrap();
    vring.set_size(3).unwrap();
    vring.set_addresses(RingAddresses::default());
    vring.set_base(u32::MAX).unwrap();
    assert_eq!(vring.ignored(), 4);
    let queue = vring.running().unwrap();
    assert_eq!((queue.size(), queue.next_avail()), (128, 5));
    assert_eq!(queue.desc_table(), 0x1000_0000);
}

#[test]
fn stopped_queue_tells_where_and_can_be_set_up_anew() {
    let memory = memory();
    let mut vring = ready();
    vring.start(&memory, false).unwrap();
    vring.running().unwrap().set_next_avail(9);
    assert_eq!(vring.stop(), 9);
    assert!(vring.running().is_none() && vring.kick().is_none());
    vring.set_size(64).unwrap();
    vring.set_kick(null());
    assert!(vring.start(&memory, false).unwrap());
    let queue = vring.running().unwrap();
    assert_eq!((queue.size(), queue.next_avail()), (64, 9));
}

#[test]
fn disabled_queue_is_not_served() {
    let memory = memory();
    let mut vring = ready();
    vring.start(&memory, false).unwrap();
    vring.set_enabled(false);
    assert!(vring.running().is_none());
    vring.set_enabled(true);
    assert!(vring.running().is_some());
}

#[test]
fn sizes_that_no_queue_has_are_refused() {
    let mut vring = Vring::default();
    for size in [0, 3, 100, 2048, 65536, u32::MAX] {
        assert!(matches!(vring.set_size(size), Err(VringError::Size { size: s }) if s == size));
    }
    assert!(matches!(vring.set_base(65536), Err(VringError::Index { index: 65536 })));
}

#[test]
fn rings_outside_of_memory_and_askew_are_refused() {
    let memory = memory();
    let start = |addresses| {
        let mut vring = ready();
        vring.set_addresses(addresses);
        let error = vring.start(&memory, false).unwrap_err();
        assert!(vring.running().is_none());
        error
    };
    for address in [0, FRONT_END - 16, FRONT_END + LEN, u64::MAX] {
        let error = start(RingAddresses { used: address, ..ADDRESSES });
        assert!(matches!(error, VringError::Address { address: a } if a == address));
    }
    let error = start(RingAddresses { descriptors: FRONT_END + LEN - 16, ..ADDRESSES });
    assert!(matches!(error, VringError::Bounds), "{error}");
    let error = start(RingAddresses { descriptors: FRONT_END + 1, ..ADDRESSES });
    assert!(matches!(error, VringError::Ring(_)), "{error}");
}

#[test]
fn queue_whose_memory_goes_away_is_given_up() {
    let mut vring = ready();
    vring.start(&memory(), false).unwrap();
    vring.revalidate(&memory());
    assert!(vring.running().is_some());
    vring.revalidate(&SharedMemory::default());
    assert!(vring.running().is_none());
    assert_eq!(vring.stop(), 5);
}
