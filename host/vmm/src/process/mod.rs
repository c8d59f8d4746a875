//! The process of one VMM: `husk` run again by its monitor, with a configuration on standard input
//! and everything else as inherited descriptors.
//!
//! ```text
//! read configuration -> take over descriptors -> jail -> build machine and devices -> filters
//!        |                    |                   |             |                      |
//!        '--------------------'-------------------'-------------'---> one line, 125    v
//!                                            end <-- serve devices and control <-- guest runs
//! ```
//!
//! Nothing of it outlives the process, and the process does not outlive its parent: the kernel
//! kills it, and so does the end of the control socket.

pub mod descriptors;
mod devices;
mod end;
mod hotplug;
pub mod input;
mod limits;
pub mod meter;
mod session;

use std::error::Error;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::prctl;

use crate::boot::{self, BootError, Images};
use crate::channel::Channel;
use crate::config::{Config, ConfigError};
use crate::control::{ControlError, Server};
use crate::event_loop::EventLoop;
use crate::jail::{self, JailError, filter};
use crate::legacy::Legacy;
use crate::machine::{Machine, MachineError, Running};
use crate::memory::{MemoryError, Ram};
use descriptors::{DescriptorError, Descriptors};
use devices::{DeviceError, Devices};
use end::End;
use hotplug::ResizeError;
use input::InputError;
use meter::Meter;
use session::Session;

pub use end::{EXIT_DESERTED, EXIT_GUEST, EXIT_KVM, EXIT_REFUSED};

/// What `husk` is called with to become a VMM. Not for people.
pub const COMMAND: &str = "vmm";

/// As the kernel has it, in `ps` and in its log.
const PROCESS_NAME: &CStr = c"husk-vmm";
/// Why there is no machine, or why it could not go on.
#[derive(Debug, thiserror::Error)]
enum ProcessError {
    /// Nothing sensible on standard input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No such machine can be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not what the configuration says.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// Not without a jail.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// Of the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initramfs, command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// One of the devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Hot-plug memory.
    #[error(transparent)]
    Resize(#[from] ResizeError),
    /// The monitor.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A call that fails on no healthy host.
    #[error("{operation}")]
    System {
        /// What for.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> ProcessError {
    move |source| ProcessError::System { operation, source: source.into() }
}

/// The whole life of the process: reads the configuration from standard input, builds the machine,
/// serves it to its end. Says on standard error, in one line, why it ended if not by the guest's
/// own wish. To be called before the process starts a thread or opens anything.
#[must_use]
pub fn main() -> ExitCode {
    let status = match run() {
        Ok(end) => {
            if end.status() != 0 {
                say(&end.to_string());
            }
            end.status()
        }
        Err(error) => {
            say(&chain(&error));
            EXIT_REFUSED
        }
    };
    ExitCode::from(status)
}

/// For whoever reads standard error; nobody may.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "{}", line.replace(char::is_control, " "));
}

fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // To a string, nothing is refused.
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line
}

fn run() -> Result<End, ProcessError> {
    // Else it is called after the link by which it was executed.
    prctl::set_name(PROCESS_NAME).map_err(system("name the process"))?;
    let config = input::read(io::stdin().lock())?;
    config.validate()?;
    let descriptors = Descriptors::inherit(&config.descriptors())?;
    // A kernel without it leaves one number unknown.
    let meter = Meter::open().ok();
    limits::set().map_err(system("set the limits of the process"))?;
    let files = meter.iter().map(|meter| meter.file().as_fd());
    let keep: Vec<BorrowedFd<'_>> = descriptors.all().chain(files).collect();
    let jail = jail::enter(&keep)?;
    drop(keep);
    let mut session = build(&config, descriptors, meter)?;
    // From here on there are only the threads that there are.
    let hotplug = config.memory.hotplug_mib > 0;
    filter::install(if hotplug { filter::Role::MainHotplug } else { filter::Role::Main })?;
    session.serve(&jail, config.start_paused)
}

/// A machine whose processors wait.
fn build(
    config: &Config,
    mut descriptors: Descriptors,
    meter: Option<Meter>,
) -> Result<Session, ProcessError> {
    let control = Server::new(Channel::new(descriptors.take(config.control)));
    let ram = Ram::create(config.memory.into())?;
    let devices = Devices::build(config, &mut descriptors, &ram)?;
    let entry = load(config, &mut descriptors, &ram, devices.transports().len())?;
    let console = config.console.map(|number| descriptors.take(number));
    let legacy = Legacy::new(console).map_err(system("set up the serial port"))?;
    let vcpus = boot_vcpus(config).max;
    let mut machine = Machine::new(descriptors.take(config.kvm), ram.guest(), vcpus)?;
    for transport in devices.transports() {
        machine.attach(transport)?;
    }
    let running = prepare(machine, &entry, &legacy)?;
    let events = EventLoop::new(devices.transports()).map_err(system("watch the devices"))?;
    Session::new(control, running, events, devices, meter, ram)
}

fn prepare(
    machine: Machine,
    entry: &boot::Entry,
    legacy: &Legacy,
) -> Result<Running, ProcessError> {
    let jailed = || filter::install(filter::Role::Vcpu).map_err(io::Error::other);
    let registers = |regs: &mut _, sregs: &mut _| entry.registers(regs, sregs);
    Ok(machine.prepare(registers, legacy, Arc::new(jailed))?)
}

fn load(
    config: &Config,
    descriptors: &mut Descriptors,
    ram: &Ram,
    devices: usize,
) -> Result<boot::Entry, ProcessError> {
    let kernel = File::from(descriptors.take(config.kernel));
    let initramfs = config.initramfs.map(|number| File::from(descriptors.take(number)));
    let images = Images { kernel: &kernel, initramfs: initramfs.as_ref() };
    let mut words = config.command_line.clone();
    words.push(boot::device_words(devices));
    Ok(boot::load(ram.guest(), &images, words.join(" ").trim(), boot_vcpus(config))?)
}

/// Validated to be few.
fn boot_vcpus(config: &Config) -> boot::Vcpus {
    let few = |count: u32| u8::try_from(count).unwrap_or(boot::MAX_VCPUS);
    boot::Vcpus { online: few(config.vcpus.online), max: few(config.vcpus.max) }
}
