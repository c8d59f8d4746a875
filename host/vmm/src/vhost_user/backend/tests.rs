//! Tests: the back end, spoken to as a front end does.

use super::*;

const NO_FLAGS: VhostUserConfigFlags = VhostUserConfigFlags::empty();

#[test]
fn configuration_space_is_the_guests_address() {
    let mut backend = Backend::new(0x0102_0304);
    assert_eq!(backend.get_config(0, 8, NO_FLAGS).unwrap(), [4, 3, 2, 1, 0, 0, 0, 0]);
    assert_eq!(backend.get_config(2, 1, NO_FLAGS).unwrap(), [2]);
    for (offset, size) in [(0, 9), (8, 1), (u32::MAX, u32::MAX), (1, u32::MAX)] {
        assert!(backend.get_config(offset, size, NO_FLAGS).is_err());
    }
    backend.set_config(0, &[9; 8], NO_FLAGS).unwrap();
    assert_eq!(backend.get_config(0, 1, NO_FLAGS).unwrap(), [4]);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut backend = Backend::new(3);
    let offered = backend.get_features().unwrap();
    assert!(backend.set_features(offered).is_ok());
    assert!(backend.set_features(offered | 1 << 40).is_err());
    let protocol = backend.get_protocol_features().unwrap().bits();
    assert!(backend.set_protocol_features(protocol).is_ok());
    assert!(backend.set_protocol_features(u64::MAX).is_err());
}

#[test]
fn queues_that_are_not_there_are_refused() {
    let mut backend = Backend::new(3);
    for index in [2, 255, u32::MAX] {
        assert!(backend.set_vring_num(index, 128).is_err());
        assert!(backend.set_vring_base(index, 0).is_err());
        assert!(backend.get_vring_base(index).is_err());
        assert!(backend.set_vring_enable(index, true).is_err());
    }
    assert!(backend.set_vring_kick(2, None).is_err());
    assert!(backend.set_vring_call(255, None).is_err());
}

#[test]
fn queue_without_memory_does_not_start() {
    let mut backend = Backend::new(3);
    backend.set_vring_enable(0, true).unwrap();
    let kick = Some(File::open("/dev/null").unwrap());
    assert!(backend.set_vring_kick(0, kick).is_err());
    assert!(backend.parts().1[0].running().is_none());
}

#[test]
fn front_end_without_protocol_features_has_its_queues_enabled_at_once() {
    let mut backend = Backend::new(3);
    backend.set_features(VIRTIO_FEATURES).unwrap();
    let kick = Some(File::open("/dev/null").unwrap());
    // Enabled: it tries to start, and there is no memory.
    assert!(backend.set_vring_kick(1, kick).is_err());
}

#[test]
fn stopped_queue_is_a_reset_of_the_device() {
    let mut backend = Backend::new(3);
    assert!(!backend.take_reset());
    backend.get_vring_base(1).unwrap();
    assert!(backend.take_reset() && backend.take_kicks_changed());
    assert!(!backend.take_reset() && !backend.take_kicks_changed());
    backend.reset_owner().unwrap();
    assert!(backend.take_reset());
}
