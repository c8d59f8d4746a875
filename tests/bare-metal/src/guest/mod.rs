//! The guest itself. `entry.s` brings it up, and from there on everything is ring 3's.

mod boot;
mod cases;
mod clock;
mod entry;
mod gate;
mod interrupts;
mod memory;
mod serial;
mod virtio;

use core::panic::PanicInfo;

use serial::say;

/// The first Rust, called by the entry code.
#[allow(unsafe_code, reason = "the entry code calls it by its name")]
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn guest_main(protocol: u64, info: u64) -> ! {
    boot::remember(protocol, info);
    say!();
    interrupts::mask_legacy();
    cases::run();
    say!("PASSED");
    if boot::word("linger").is_some() {
        // Whoever looks at the machine stops it.
        loop {
            gate::wait();
        }
    }
    end()
}

/// An exception, which no case wants. Called by the entry code.
#[allow(unsafe_code, reason = "the entry code calls it by its name")]
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn guest_trapped(vector: u64, code: u64, rip: u64, address: u64) -> ! {
    say!("FAILED exception {vector}, code {code:#x}, at {rip:#x}, address {address:#x}");
    end()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => say!("FAILED {}:{}: {}", at.file(), at.line(), info.message()),
        None => say!("FAILED {}", info.message()),
    }
    end()
}

/// Ends the machine: by the keyboard controller where there is one, else by a triple fault.
fn end() -> ! {
    gate::out8(0x64, 0xfe);
    gate::triple_fault()
}
