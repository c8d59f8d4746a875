//! The machine without its devices: entries, memory, ports, processors, serial port, ends.

use std::time::Duration;

use husk_tests::bare_bed::{Ended, Kernel, Protocol, Setup, Size};
use husk_tests::wait::{at_rest, eventually};
use husk_vmm::control::{Event, Request};
use husk_vmm::process::EXIT_GUEST;

use super::{DEADLINE, kvm_or_skip, pass, start};

fn bare(case: &str) -> Setup {
    Setup { rng: false, ..Setup::new(case) }
}

fn number(ended: &Ended, words: &str) -> u64 {
    let values = ended.values(words);
    let digits: String = values[0].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn guest_starts_by_either_entry_with_its_command_line() {
    for (protocol, name) in [(Protocol::Linux, "linux"), (Protocol::Pvh, "pvh")] {
        let case = "hello one=1 two=2";
        let Some(ended) = pass(&Setup { kernel: Kernel::BareMetal(protocol), ..bare(case) }) else {
            return;
        };
        assert_eq!(ended.values("protocol "), [name]);
        assert!(ended.values("command line ")[0].starts_with("case=hello one=1 two=2"), "{ended}");
    }
}

#[test]
fn command_line_names_the_slot_of_each_device() {
    let Some(ended) = pass(&Setup::new("hello")) else { return };
    let line = ended.values("command line ")[0];
    assert_eq!(line.matches("virtio_mmio.device=").count(), 1, "{line}");
}

#[test]
fn memory_is_as_much_as_configured_and_all_of_it_is_memory() {
    for protocol in [Protocol::Linux, Protocol::Pvh] {
        for mib in [32, 64, 200] {
            let size = Size { memory_mib: mib, ..Size::default() };
            let kernel = Kernel::BareMetal(protocol);
            let setup = Setup { size, kernel, ..bare("memory") };
            let Some(ended) = pass(&setup) else { return };
            let kib = number(&ended, "total ");
            // Less what a PC has below 1 MiB.
            assert!(kib <= u64::from(mib) << 10 && kib + 512 >= u64::from(mib) << 10, "{ended}");
        }
    }
}

#[test]
fn memory_beyond_the_hole_is_above_4_gib() {
    let size = Size { memory_mib: 3 * 1024 + 256, ..Size::default() };
    let Some(ended) = pass(&bare("memory").sized(size)) else { return };
    assert_eq!(ended.values("memory 0x100000000 "), ["0x10000000"], "{ended}");
}

#[test]
fn every_port_and_address_without_a_device_answers() {
    pass(&bare("ports"));
    pass(&bare("unknown-mmio"));
}

#[test]
fn halted_processor_is_woken_by_its_timer() {
    pass(&bare("timer"));
}

#[test]
fn hypervisor_is_kvm_with_its_clock() {
    let Some(ended) = pass(&bare("cpuid")) else { return };
    assert_eq!(ended.values("hypervisor "), ["KVMKVMKVM"]);
    assert_eq!(ended.values("kvmclock "), ["1"]);
    assert_eq!(ended.values("hypervisor-bit "), ["1"]);
}

#[test]
fn other_processors_start_as_those_of_a_pc_do() {
    for vcpus in [2, 32] {
        let case = format!("processors cpus={vcpus}");
        pass(&bare(&case).sized(Size { vcpus, ..Size::default() }));
    }
}

#[test]
fn triple_fault_ends_the_machine_and_is_told() {
    let kvm = kvm_or_skip!();
    let ended = start(&bare("triple-fault"), kvm).finish(DEADLINE);
    let status = ended.status.expect("the VMM ends by itself");
    assert_eq!(status.code(), Some(EXIT_GUEST.into()), "{ended}");
    assert!(ended.stderr.contains("triple fault"), "{ended}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    assert!(
        matches!(ended.events.last(), Some(Event::Ended { status: EXIT_GUEST, .. })),
        "{ended}"
    );
}

#[test]
fn guest_that_hangs_is_stopped_paused_and_measured() {
    for case in ["hang", "halt"] {
        let kvm = kvm_or_skip!();
        let guest = start(&bare(case), kvm);
        guest.expect(if case == "hang" { "hanging" } else { "halting" }, DEADLINE);
        guest.command(Request::Pause);
        guest.command(Request::Resume);
        let before = guest.statistics();
        assert!(before.exits.values().sum::<u64>() > 0, "{before:?}");
        guest.command(Request::Stop);
        let ended = guest.finish(DEADLINE);
        assert!(ended.status.is_some_and(|status| status.success()), "{ended}");
    }
}

#[test]
fn paused_guest_does_nothing() {
    let kvm = kvm_or_skip!();
    let guest = start(&bare("serial-lines lines=1000000"), kvm);
    guest.expect("line 000010", DEADLINE);
    guest.command(Request::Pause);
    let said = at_rest("the guest", || guest.said().len());
    guest.command(Request::Resume);
    eventually("it goes on", || (guest.said().len() > said).then_some(()));
    guest.command(Request::Stop);
    guest.finish(DEADLINE);
}

#[test]
fn machine_that_starts_paused_waits_for_its_start() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup { start_paused: true, ..bare("hello") }, kvm);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(guest.said(), "");
    guest.command(Request::Start);
    guest.finish(DEADLINE).expect_passed();
}

#[test]
fn serial_port_loses_no_line() {
    let Some(ended) = pass(&bare("serial-lines lines=500")) else { return };
    let lines = ended.values("line ");
    assert_eq!(lines.len(), 500);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("{number:06} the quick brown fox jumps over the lazy dog"));
    }
}

#[test]
fn flood_on_the_serial_port_takes_no_memory_of_the_host() {
    let kvm = kvm_or_skip!();
    let guest = start(&bare("serial-flood kib=128 linger=1"), kvm);
    guest.expect("PASSED", DEADLINE);
    let memory = guest.statistics().memory;
    if let Some(memory) = memory {
        assert!(memory.own_kib < 32 << 10, "{memory:?}");
    }
    guest.command(Request::Stop);
    let ended = guest.finish(DEADLINE);
    assert!(ended.serial.len() >= 128 << 10, "{} bytes of 128 KiB", ended.serial.len());
}
