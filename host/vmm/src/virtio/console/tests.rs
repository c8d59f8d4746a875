//! Tests: the device over pipes.

use std::io::{Read, Write};

use nix::unistd::pipe;

use super::*;
use crate::virtio::testing::Driver;

const SIZE: Size = Size { columns: 80, rows: 24 };

struct Bench {
    driver: Driver,
    output: File,
    input: File,
}

fn bench(size: Option<Size>) -> Bench {
    let (output, from_guest) = pipe().unwrap();
    let (to_guest, input) = pipe().unwrap();
    let device = Device::new(from_guest, Some(to_guest), size).unwrap();
    let driver = Driver::new(Box::new(device));
    Bench { driver, output: non_blocking(output).unwrap(), input: File::from(input) }
}

#[test]
fn bytes_pass_both_ways() {
    let Bench { mut driver, mut output, mut input } = bench(None);
    driver.start(0, 16);
    let text = driver.queue(TX_QUEUE).readable(b"hello");
    driver.queue(TX_QUEUE).add(&[text]);
    driver.kick(TX_QUEUE);
    driver.run();
    let mut bytes = [0; 16];
    assert_eq!(output.read(&mut bytes).unwrap(), 5);
    assert_eq!(bytes[..5], *b"hello");
    assert!(driver.take_interrupt());
    let room = driver.queue(RX_QUEUE).writable(16);
    driver.queue(RX_QUEUE).add(&[room]);
    driver.kick(RX_QUEUE);
    driver.run();
    assert!(!driver.take_interrupt());
    input.write_all(b"world").unwrap();
    assert!(driver.wait());
    assert_eq!(driver.queue(RX_QUEUE).take_used(), [(0, 5)]);
    assert!(driver.take_interrupt());
}

#[test]
fn what_came_before_the_driver_or_its_buffers_waits_for_them() {
    let Bench { mut driver, mut input, .. } = bench(None);
    input.write_all(b"early").unwrap();
    driver.run();
    driver.start(0, 16);
    driver.run();
    let room = driver.queue(RX_QUEUE).writable(3);
    driver.queue(RX_QUEUE).add(&[room]);
    driver.queue(RX_QUEUE).add(&[room]);
    driver.kick(RX_QUEUE);
    driver.run();
    assert_eq!(driver.queue(RX_QUEUE).take_used(), [(0, 3), (1, 2)]);
}

#[test]
fn a_full_pipe_does_not_hold_the_guest_up() {
    let Bench { mut driver, output, .. } = bench(None);
    driver.start(0, 64);
    for _ in 0..4 {
        let text = driver.queue(TX_QUEUE).readable(&[b'x'; 60_000]);
        driver.queue(TX_QUEUE).add(&[text]);
        driver.kick(TX_QUEUE);
        driver.run();
    }
    assert_eq!(driver.queue(TX_QUEUE).take_used().len(), 4);
    let (written, dropped) = (driver.counter("written_bytes"), driver.counter("dropped_bytes"));
    assert_eq!(written + dropped, 240_000);
    assert!(dropped > 0);
    // Nor does one that nobody will read.
    drop(output);
    let text = driver.queue(TX_QUEUE).readable(b"hello");
    driver.queue(TX_QUEUE).add(&[text]);
    driver.kick(TX_QUEUE);
    driver.run();
    assert_eq!(driver.queue(TX_QUEUE).take_used().len(), 1);
}

#[test]
fn an_input_that_ends_leaves_the_guest_alone() {
    let Bench { mut driver, mut input, .. } = bench(None);
    driver.start(0, 16);
    input.write_all(b"bye").unwrap();
    drop(input);
    let room = driver.queue(RX_QUEUE).writable(16);
    driver.queue(RX_QUEUE).add(&[room]);
    driver.queue(RX_QUEUE).add(&[room]);
    driver.kick(RX_QUEUE);
    driver.run();
    assert_eq!(driver.queue(RX_QUEUE).take_used(), [(0, 3)]);
}

#[test]
fn the_size_is_told_and_its_change_too() {
    let Bench { mut driver, .. } = bench(Some(SIZE));
    assert_eq!(driver.offered() & FEATURE_SIZE, FEATURE_SIZE);
    driver.start(FEATURE_SIZE, 16);
    assert_eq!(driver.config::<4>(0), [80, 0, 24, 0]);
    let generation = driver.read(0x0fc);
    let resize = |driver: &Driver, size| {
        driver.transport.device().downcast_mut::<Device>().unwrap().resize(size);
    };
    resize(&driver, SIZE);
    assert!(!driver.take_config_interrupt());
    resize(&driver, Size { columns: 300, rows: 24 });
    assert!(driver.take_config_interrupt());
    assert_ne!(driver.read(0x0fc), generation);
    assert_eq!(driver.config::<4>(0), [44, 1, 24, 0]);
    assert_eq!(driver.config::<8>(8), [0; 8]);
}

#[test]
fn a_console_without_a_terminal_has_no_size() {
    let Bench { driver, .. } = bench(None);
    assert_eq!(driver.offered() & FEATURE_SIZE, 0);
    driver.transport.device().downcast_mut::<Device>().unwrap().resize(SIZE);
    assert_eq!(driver.config::<4>(0), [0; 4]);
}
