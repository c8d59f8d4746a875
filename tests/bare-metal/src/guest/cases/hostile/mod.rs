//! What no honest driver does, to the device `kind=N` on its queue `queue=N`, with the features
//! that
//! `features=N` adds. A device may give a chain back, break its queue, or ask for a reset; after a
//! reset it works, unless a server that may die of it is named by `mortal=1`. The harness asserts
//! that the machine is still there, and what the device counted.

mod endless;
mod registers;

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{
    Buffer, Device, FLAG_INDIRECT, FLAG_NEXT, FLAG_WRITE, Rings, feature, kind, register, status,
    write_descriptor,
};
use crate::guest::{boot, clock, gate};

pub const CASES: Cases = &[
    ("hostile-descriptors", descriptors),
    ("hostile-indirect", indirect),
    ("hostile-loops", loops),
    ("hostile-available", available),
    ("hostile-frozen", frozen),
    ("hostile-rings", rings),
    ("hostile-used-ring-unmapped", used_ring_unmapped),
    ("hostile-no-queues", registers::no_queues),
    ("hostile-order", registers::order),
    ("hostile-features", registers::features),
    ("hostile-config", registers::config),
    ("hostile-widths", registers::widths),
    ("hostile-queue-numbers", registers::queue_numbers),
    ("hostile-kick-storm", kick_storm),
    ("hostile-ring-flood", ring_flood),
    ("hostile-resets", resets),
    ("hostile-noise", noise),
    ("hostile-endless", endless::endless),
];

/// How long a device gets to do what it should not.
const SETTLE_MS: u64 = 5;
/// In the hole of MMIO, and beyond any memory.
const NOWHERE: [u64; 4] = [0xc100_0000, 0xfee0_0000, 0x7f_ffff_f000, u64::MAX - 8];

/// What is attacked.
fn target() -> (Device, u16) {
    let kind = boot::number("kind").unwrap_or(kind::ENTROPY.into());
    let kind = u32::try_from(kind).expect("kind=N is a device type");
    let queue = boot::number("queue").unwrap_or(0);
    (Device::find(kind), u16::try_from(queue).expect("queue=N is a queue"))
}

/// Every queue of the device set up in an ordinary way, except that the one gets these rings.
fn activate(device: &Device, attacked: u16, rings: &Rings, features: u64) {
    device.negotiate(features | boot::number("features").unwrap_or(0));
    for index in (0..16).take_while(|index| device.queue_max(*index) > 0) {
        if index == attacked {
            device.set_queue(index, rings);
        } else {
            device.set_queue(index, &Rings::new(8));
        }
    }
    device.add_status(status::DRIVER_OK);
}

/// After a reset, the device starts in an ordinary way, and serves if we know how to ask it.
#[track_caller]
fn expect_alive(device: &Device, attacked: u16) {
    let rings = Rings::new(8);
    activate(device, attacked, &rings, 0);
    let status = device.status();
    if status & status::NEEDS_RESET != 0 && boot::word("mortal").is_some() {
        return device.reset();
    }
    assert_eq!(
        status & (status::DRIVER_OK | status::NEEDS_RESET),
        status::DRIVER_OK,
        "{status:#x}"
    );
    if device.kind() == kind::ENTROPY {
        let buffer = memory::take(PAGE);
        write_descriptor(rings.descriptor(0), buffer, 16, FLAG_WRITE, 0);
        rings.offer(0, &[0]);
        device.notify(0);
        let end = clock::after_ms(clock::PATIENCE_MS);
        while rings.used_index() == 0 {
            assert!(!end.is_past(), "the device does not serve after a reset");
        }
    }
    device.reset();
}

/// Whether each chain of the queue is served at once: others wait for the host to have something.
fn answers(device: &Device, queue: u16) -> bool {
    match device.kind() {
        kind::ENTROPY | kind::BLOCK | kind::BALLOON | kind::MEM => true,
        kind::NET | kind::CONSOLE | kind::VSOCK => queue == 1,
        _ => false,
    }
}

/// One attack: `set` writes rings of 8 descriptors, then the device is told.
#[track_caller]
fn attack(what: &str, features: u64, set: impl Fn(&Rings)) {
    let (device, queue) = target();
    let rings = Rings::new(8);
    activate(&device, queue, &rings, features);
    set(&rings);
    device.notify(queue.into());
    let end = clock::after_ms(clock::PATIENCE_MS);
    let broken = || device.status() & status::NEEDS_RESET != 0;
    while answers(&device, queue) && rings.used_index() == 0 && !broken() {
        assert!(!end.is_past(), "{what}: neither given back nor broken");
    }
    clock::pause_ms(SETTLE_MS);
    say!(
        "{what}: used {}, needs reset {}",
        rings.used_index(),
        device.status() & status::NEEDS_RESET != 0
    );
    expect_alive(&device, queue);
}

fn descriptors() {
    let page = memory::take(PAGE);
    let last = boot::usable_memory().map(|(start, len)| start + len).max().unwrap_or(0);
    let both = [0, FLAG_WRITE];
    for address in NOWHERE {
        for flags in both {
            attack("a descriptor outside of memory", 0, |rings| {
                write_descriptor(rings.descriptor(0), address, 4096, flags, 0);
                rings.offer(0, &[0]);
            });
        }
    }
    for flags in both {
        attack("a descriptor that overflows", 0, |rings| {
            write_descriptor(rings.descriptor(0), u64::MAX - 100, u32::MAX, flags, 0);
            rings.offer(0, &[0]);
        });
        attack("a descriptor across the end of memory", 0, |rings| {
            write_descriptor(rings.descriptor(0), last - 16, 4096, flags, 0);
            rings.offer(0, &[0]);
        });
        attack("a descriptor of 4 GiB", 0, |rings| {
            write_descriptor(rings.descriptor(0), page, u32::MAX, flags, 0);
            rings.offer(0, &[0]);
        });
        attack("empty descriptors", 0, |rings| {
            for index in 0..7 {
                write_descriptor(rings.descriptor(index), page, 0, flags | FLAG_NEXT, index + 1);
            }
            write_descriptor(rings.descriptor(7), page, 0, flags, 0);
            rings.offer(0, &[0, 1, 7]);
        });
    }
    attack("to write before to read", 0, |rings| {
        write_descriptor(rings.descriptor(0), page, 64, FLAG_WRITE | FLAG_NEXT, 1);
        write_descriptor(rings.descriptor(1), page, 64, FLAG_NEXT, 2);
        write_descriptor(rings.descriptor(2), page, 64, FLAG_WRITE, 0);
        rings.offer(0, &[0]);
    });
    attack("the rings themselves as the buffer", 0, |rings| {
        write_descriptor(rings.descriptor(0), rings.descriptors, 128, FLAG_WRITE | FLAG_NEXT, 1);
        write_descriptor(rings.descriptor(1), rings.available, 22, FLAG_WRITE | FLAG_NEXT, 2);
        write_descriptor(rings.descriptor(2), rings.used, 70, FLAG_WRITE, 0);
        rings.offer(0, &[0]);
    });
}

fn indirect() {
    let table = memory::take(PAGE);
    let page = memory::take(PAGE);
    write_descriptor(table, page, 64, FLAG_WRITE, 0);
    let raw = |address, len, flags| {
        move |rings: &Rings| {
            write_descriptor(rings.descriptor(0), address, len, flags, 1);
            write_descriptor(rings.descriptor(1), page, 64, FLAG_WRITE, 0);
            rings.offer(0, &[0]);
        }
    };
    for features in [feature::INDIRECT, 0] {
        for len in [0, 1, 15, 17, 16 * 300, u32::MAX] {
            attack("a table of an odd length", features, raw(table, len, FLAG_INDIRECT));
        }
        for address in NOWHERE {
            attack("a table outside of memory", features, raw(address, 64, FLAG_INDIRECT));
        }
        let wrong = FLAG_INDIRECT | FLAG_NEXT;
        attack("a table with a next", features, raw(table, 16, wrong));
        attack("a table to write", features, raw(table, 16, FLAG_INDIRECT | FLAG_WRITE));
    }
    write_descriptor(table, table, 16, FLAG_INDIRECT, 0);
    attack("a table in itself", feature::INDIRECT, raw(table, 16, FLAG_INDIRECT));
}

fn loops() {
    let page = memory::take(PAGE);
    let table = memory::take(PAGE);
    for flags in [0, FLAG_WRITE] {
        attack("a descriptor behind itself", 0, |rings| {
            write_descriptor(rings.descriptor(0), page, 8, flags | FLAG_NEXT, 0);
            rings.offer(0, &[0]);
        });
        attack("a circle", 0, |rings| {
            for index in 0..8 {
                let next = (index + 1) % 8;
                write_descriptor(rings.descriptor(index), page, 8, flags | FLAG_NEXT, next);
            }
            rings.offer(0, &[0, 3]);
        });
        attack("a next that is none", 0, |rings| {
            write_descriptor(rings.descriptor(0), page, 8, flags | FLAG_NEXT, 8);
            write_descriptor(rings.descriptor(1), page, 8, flags | FLAG_NEXT, 0xffff);
            rings.offer(0, &[0, 1]);
        });
        attack("a circle in a table", feature::INDIRECT, |rings| {
            write_descriptor(table, page, 8, flags | FLAG_NEXT, 1);
            write_descriptor(table + 16, page, 8, flags | FLAG_NEXT, 0);
            write_descriptor(rings.descriptor(0), table, 32, FLAG_INDIRECT, 0);
            rings.offer(0, &[0]);
        });
    }
}

fn available() {
    let page = memory::take(PAGE);
    attack("heads that are none", 0, |rings| rings.offer(0, &[8, 0xffff, 9]));
    attack("more chains than descriptors", 0, |rings| {
        write_descriptor(rings.descriptor(0), page, 8, FLAG_WRITE, 0);
        memory::write16(rings.available + 2, 1000);
    });
    attack("an index that went back", 0, |rings| memory::write16(rings.available + 2, 0xffff));
    attack("the same head again and again", 0, |rings| {
        write_descriptor(rings.descriptor(0), page, 8, FLAG_WRITE, 0);
        rings.offer(0, &[0; 8]);
    });
}

/// What is written to a queue's registers after DRIVER_OK changes nothing.
fn frozen() {
    let (device, queue) = target();
    let rings = Rings::new(8);
    activate(&device, queue, &rings, 0);
    device.write(register::QUEUE_SELECT, queue.into());
    for size in [0, 1, 3, 16, 1024, 32768, 65535, u32::MAX] {
        device.write(register::QUEUE_SIZE, size);
    }
    for address in NOWHERE {
        device.set_address(register::QUEUE_DESCRIPTORS, address);
        device.set_address(register::QUEUE_DRIVER, address);
        device.set_address(register::QUEUE_DEVICE, address);
    }
    device.take(0);
    device.notify(queue.into());
    let page = memory::take(PAGE);
    write_descriptor(rings.descriptor(7), page, 16, FLAG_WRITE, 0);
    rings.offer(0, &[7]);
    device.notify(queue.into());
    clock::pause_ms(SETTLE_MS);
    if answers(&device, queue) {
        let end = clock::after_ms(clock::PATIENCE_MS);
        while rings.used_index() == 0 {
            assert!(!end.is_past(), "it does not serve by the queue that it was given");
        }
        say!("frozen: used {}", rings.used_index());
    }
    if device.kind() == kind::ENTROPY {
        assert_ne!(memory::bytes(page, 16), &[0; 16], "nothing is in the buffer");
    }
    // Not ready, ready again: another place for the same queue.
    device.write(register::QUEUE_READY, 0);
    device.set_queue(queue, &Rings::new(4));
    device.notify(queue.into());
    clock::pause_ms(SETTLE_MS);
    expect_alive(&device, queue);
}

/// Rings that cannot be: before DRIVER_OK. The device asks for a reset, or is without the queue.
fn rings() {
    let (device, queue) = target();
    let good = Rings::new(8);
    let most = device.queue_max(queue);
    let attempt = |what: &str, rings: Rings| {
        activate(&device, queue, &rings, 0);
        let status = device.status() & (status::DRIVER_OK | status::NEEDS_RESET);
        for _ in 0..3 {
            device.notify(queue.into());
        }
        clock::pause_ms(SETTLE_MS);
        say!("{what}: status {status:#x}");
        expect_alive(&device, queue);
        status
    };
    let refused = |what: &str, rings: Rings| {
        let status = attempt(what, rings);
        assert!(status & status::NEEDS_RESET != 0, "{what}: taken, status {status:#x}");
    };
    for address in NOWHERE {
        refused("descriptors outside of memory", Rings { descriptors: address, ..good });
        refused("driver's ring outside of memory", Rings { available: address, ..good });
        refused("device's ring outside of memory", Rings { used: address, ..good });
    }
    refused("descriptors at an odd place", Rings { descriptors: good.descriptors + 8, ..good });
    refused("driver's ring at an odd place", Rings { available: good.available + 1, ..good });
    refused("device's ring at an odd place", Rings { used: good.used + 2, ..good });
    refused("three descriptors", Rings { size: 3, ..good });
    refused("more than there may be", Rings { size: most.saturating_mul(2), ..good });
    let last = boot::usable_memory().map(|(start, len)| start + len).max().unwrap_or(0);
    refused("device's ring across the end", Rings { used: last - 16, ..good });
    refused("descriptors across the end", Rings { descriptors: last - 16, ..good });
    attempt("no descriptors", Rings { size: 0, ..good });
    attempt("all in one place", Rings { available: good.used, descriptors: good.used, ..good });
}

/// The rings of an active queue lie where registers are, and are kicked.
fn used_ring_unmapped() {
    let (device, queue) = target();
    for used in [0xd000_0000, 0xfec0_0000, device.base, 0xc000_0000] {
        let rings = Rings { used, ..Rings::new(8) };
        activate(&device, queue, &rings, 0);
        let page = memory::take(PAGE);
        write_descriptor(rings.descriptor(0), page, 16, FLAG_WRITE, 0);
        rings.offer(0, &[0]);
        device.notify(queue.into());
        clock::pause_ms(SETTLE_MS);
        expect_alive(&device, queue);
    }
}

/// Kicks with nothing behind them: `kicks=N`.
fn kick_storm() {
    let (device, queue) = target();
    let rings = Rings::new(8);
    activate(&device, queue, &rings, 0);
    let kicks = boot::number("kicks").unwrap_or(5000);
    let start = clock::ticks();
    for _ in 0..kicks {
        device.notify(queue.into());
    }
    let micros = clock::micros(start, clock::ticks());
    say!("kicks {kicks}");
    say!("time kick-ns {}", micros * 1000 / kicks);
    expect_alive(&device, queue);
}

/// A ring that is always full, by a driver that never looks: the available index runs ahead.
fn ring_flood() {
    let (device, queue) = target();
    let rings = Rings::new(8);
    activate(&device, queue, &rings, 0);
    let page = memory::take(PAGE);
    for index in 0..8 {
        write_descriptor(rings.descriptor(index), page, 16, FLAG_WRITE, 0);
    }
    let end = clock::after_ms(300);
    let mut from = 0_u16;
    while !end.is_past() {
        rings.offer(from, &[0, 1, 2, 3, 4, 5, 6, 7]);
        from = from.wrapping_add(8);
        device.notify(queue.into());
    }
    expect_alive(&device, queue);
}

/// Resets in the middle of everything.
fn resets() {
    let (device, queue) = target();
    let page = memory::take(PAGE);
    let rings = Rings::new(8);
    for _ in 0..100 {
        memory::fill(rings.available, 0, 22);
        memory::fill(rings.used, 0, 70);
        device.negotiate(0);
        device.set_queue(queue, &rings);
        device.add_status(status::DRIVER_OK);
        for index in 0..8 {
            write_descriptor(rings.descriptor(index), page, 64, FLAG_WRITE, 0);
        }
        rings.offer(0, &[0, 1, 2, 3, 4, 5, 6, 7]);
        device.notify(queue.into());
        device.reset();
        let used = rings.used_index();
        memory::fill(page, 0, 64);
        device.notify(queue.into());
        assert_eq!(rings.used_index(), used, "used after a reset");
        assert_eq!(memory::bytes(page, 64), &[0; 64], "written after a reset");
    }
    expect_alive(&device, queue);
}

/// Random values to random registers, random descriptors, by `seed=N`.
fn noise() {
    let (device, queue) = target();
    let mut state = boot::number("seed").unwrap_or(1) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let rings = Rings::new(8);
    let page = memory::take(PAGE);
    for _ in 0..boot::number("rounds").unwrap_or(40) {
        activate(&device, queue, &rings, random() & feature::INDIRECT);
        for index in 0..8 {
            let address = if random() % 4 == 0 { random() } else { page + random() % 4096 };
            let [a, b, c, d, e, f, g, h] = random().to_le_bytes();
            let len = u32::from_le_bytes([a, b, c & 1, d & 1]);
            let flags = u16::from_le_bytes([e & 7, 0]);
            let next = u16::from_le_bytes([f & 15, g & h & 1]);
            write_descriptor(rings.descriptor(index), address, len, flags, next);
        }
        let [a, b, c, d, ..] = random().to_le_bytes();
        rings.offer(u16::from_le_bytes([a, 0]), &[(b & 7).into(), (c & 7).into(), (d & 15).into()]);
        device.notify(queue.into());
        let register = random() & 0xfc;
        let [a, b, c, d, ..] = random().to_le_bytes();
        device.write(register, u32::from_le_bytes([a, b, c, d]));
        gate::out8(0x80, 0);
        device.reset();
    }
    expect_alive(&device, queue);
    let _ = Buffer::out(page, 0);
}
