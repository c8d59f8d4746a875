//! The keyboard controller, which has no keyboard: it resets the machine, and answers what a kernel
//! asks to find out that it is there. IBM PS/2 Hardware Interface Technical Reference, "Keyboard
//! and Auxiliary Device Controller".

use std::sync::{Mutex, PoisonError};

use super::Reset;
use crate::bus::Registers;

/// Data port, from the first one.
const DATA: u64 = 0;
/// Command and status port.
const COMMAND: u64 = 4;

/// Status: there is a byte to read.
const STATUS_OUTPUT_FULL: u8 = 1;
/// Status: the self-test was passed.
const STATUS_SYSTEM: u8 = 1 << 2;

/// The controller's command byte is read and written by these.
const READ_CONFIG: u8 = 0x20;
const WRITE_CONFIG: u8 = 0x60;
/// The self-test, and the answer of a controller in good health.
const SELF_TEST: u8 = 0xaa;
const SELF_TEST_PASSED: u8 = 0x55;
/// The test of the keyboard's lines, and the answer if they are good.
const LINE_TEST: u8 = 0xab;
const LINE_TEST_PASSED: u8 = 0;
/// The output port is read and written by these.
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
/// From here on, commands pull those lines of the output port low whose bits are clear.
const PULSE: u8 = 0xf0;

/// Output port: this line low resets the processor.
const OUTPUT_RESET: u8 = 1;
/// Output port: addresses above 1 MiB are not wrapped. Always so here.
const OUTPUT_A20: u8 = 1 << 1;
/// The command byte at the start: system flag, keyboard switched off.
const DEFAULT_CONFIG: u8 = 1 << 2 | 1 << 4;

#[derive(Debug)]
struct State {
    config: u8,
    /// What the next read of the data port gets.
    output: Option<u8>,
    /// The command that waits for a byte at the data port.
    waiting: Option<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct I8042 {
    state: Mutex<State>,
    reset: Reset,
}

impl I8042 {
    pub fn new(reset: Reset) -> Self {
        let state = State { config: DEFAULT_CONFIG, output: None, waiting: None };
        Self { state: Mutex::new(state), reset }
    }

    fn command(&self, state: &mut State, command: u8) {
        state.waiting = None;
        match command {
            READ_CONFIG => state.output = Some(state.config),
            SELF_TEST => state.output = Some(SELF_TEST_PASSED),
            LINE_TEST => state.output = Some(LINE_TEST_PASSED),
            READ_OUTPUT_PORT => state.output = Some(OUTPUT_RESET | OUTPUT_A20),
            WRITE_CONFIG | WRITE_OUTPUT_PORT => state.waiting = Some(command),
            PULSE.. if command & OUTPUT_RESET == 0 => self.reset.ask(),
            _ => {}
        }
    }

    fn data(&self, state: &mut State, value: u8) {
        match state.waiting.take() {
            Some(WRITE_CONFIG) => state.config = value,
            Some(WRITE_OUTPUT_PORT) if value & OUTPUT_RESET == 0 => self.reset.ask(),
            // For a keyboard that is not there, or A20.
            _ => {}
        }
    }
}

impl Registers for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match offset {
            DATA => state.output.take().unwrap_or(0),
            COMMAND if state.output.is_some() => STATUS_SYSTEM | STATUS_OUTPUT_FULL,
            COMMAND => STATUS_SYSTEM,
            _ => 0,
        };
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            DATA => self.data(&mut state, value),
            COMMAND => self.command(&mut state, value),
            _ => {}
        }
    }
}

/// System control port A: A20, which is always on, and a reset.
#[derive(Debug)]
pub struct SystemControl {
    reset: Reset,
}

impl SystemControl {
    pub fn new(reset: Reset) -> Self {
        Self { reset }
    }
}

impl Registers for SystemControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(OUTPUT_A20);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        // A one here is what a low line is on the keyboard controller.
        if data.first().is_some_and(|value| value & OUTPUT_RESET != 0) {
            self.reset.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(controller: &I8042, offset: u64) -> u8 {
        let mut data = [0xff];
        controller.read(offset, &mut data);
        data[0]
    }

    fn controller() -> (I8042, Reset) {
        let reset = Reset::default();
        (I8042::new(reset.clone()), reset)
    }

    #[test]
    fn every_way_to_reset_is_understood() {
        let ways: [&[(u64, u8)]; 3] =
            [&[(COMMAND, 0xfe)], &[(COMMAND, 0xf0)], &[(COMMAND, 0xd1), (DATA, 0xfe)]];
        for way in ways {
            let (controller, reset) = controller();
            for (offset, value) in way {
                assert!(!reset.is_asked());
                controller.write(*offset, &[*value]);
            }
            assert!(reset.is_asked(), "{way:?}");
        }
        let reset = Reset::default();
        let control = SystemControl::new(reset.clone());
        control.write(0, &[2]);
        assert!(!reset.is_asked());
        control.write(0, &[3]);
        assert!(reset.is_asked());
    }

    #[test]
    fn nothing_else_resets() {
        let (controller, reset) = controller();
        for command in (0..=0xff).filter(|command| *command < 0xf0 || command & 1 == 1) {
            controller.write(COMMAND, &[command]);
            controller.write(DATA, &[0xff]);
        }
        controller.write(DATA, &[0xfe]);
        controller.write(COMMAND, &[0xfe, 0xff]);
        assert!(!reset.is_asked());
    }

    #[test]
    fn it_is_ready_for_a_command_at_any_time() {
        let (controller, _reset) = controller();
        let input_full = 2;
        assert_eq!(read(&controller, COMMAND) & (input_full | STATUS_OUTPUT_FULL), 0);
        controller.write(COMMAND, &[SELF_TEST]);
        assert_eq!(read(&controller, COMMAND) & input_full, 0);
    }

    #[test]
    fn it_passes_its_tests_and_keeps_its_command_byte() {
        let (controller, _reset) = controller();
        controller.write(COMMAND, &[SELF_TEST]);
        assert_eq!(read(&controller, COMMAND) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        assert_eq!(read(&controller, DATA), SELF_TEST_PASSED);
        assert_eq!(read(&controller, COMMAND) & STATUS_OUTPUT_FULL, 0);
        controller.write(COMMAND, &[WRITE_CONFIG]);
        controller.write(DATA, &[0x45]);
        controller.write(COMMAND, &[READ_CONFIG]);
        assert_eq!(read(&controller, DATA), 0x45);
        controller.write(COMMAND, &[READ_OUTPUT_PORT]);
        assert_eq!(read(&controller, DATA), 3);
    }
}
