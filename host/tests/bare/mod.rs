//! Guests of a few instructions, and the VMM's process that runs them, without the hypervisor in
//! between: each descriptor and each byte of the configuration is the test's.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use husk::sys::process::spawn_bound;
use husk_vmm::channel::Channel;
use husk_vmm::config::{Config, Devices, Memory, Vcpus, Vsock};
use husk_vmm::control::{Client, Event};
use husk_vmm::vsock::{VsockHandle, relay};

/// A busy machine is slow.
pub const SOON: Duration = Duration::from_secs(60);
/// Where guests are loaded.
const LOAD_ADDR: u64 = 0x10_0000;

/// The program in the file of a kernel: an ELF header, one program header, the code.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let len = (120 + code.len()) as u64;
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [LOAD_ADDR + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable, writable, executable.
    for half in [1_u32, 7] {
        file.extend(half.to_le_bytes());
    }
    for word in [0, LOAD_ADDR, LOAD_ADDR, len, len, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    assert_eq!(file.len(), 120);
    file.extend(code);
    file
}

/// Writes each byte to the serial port.
pub fn say(text: &str) -> Vec<u8> {
    // mov dx, 0x3f8
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    for byte in text.bytes() {
        // mov al, byte; out dx, al
        code.extend([0xb0, byte, 0xee]);
    }
    code
}

/// Resets by the keyboard controller: mov al, 0xfe; out 0x64, al; then halts.
pub const RESET: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
/// Loops for ever.
pub const HANG: [u8; 2] = [0xeb, 0xfe];
/// Makes the interrupt descriptor table empty, and then an exception: lidt [rip]; ud2.
pub const TRIPLE_FAULT: [u8; 19] = [
    0x0f, 0x01, 0x1d, 0x02, 0, 0, 0, 0x0f, 0x0b, // the table's limit and address:
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Or why a test cannot run.
pub fn kvm() -> Result<File, String> {
    let device = File::options().read(true).write(true).open("/dev/kvm");
    device.map_err(|error| format!("open /dev/kvm: {error}"))
}

/// Everything that a VMM's process is given.
pub struct Parts {
    pub kvm: File,
    pub kernel: File,
    pub config: Config,
    /// What else it inherits.
    pub more: Vec<File>,
    control: (Channel, Channel),
    streams: (Channel, Channel),
    console: (PipeReader, PipeWriter),
}

impl Parts {
    /// A machine with one processor that runs `code`.
    pub fn new(kvm: File, code: &[u8]) -> Self {
        let mut kernel = tempfile::tempfile().unwrap();
        kernel.write_all(&elf(code)).unwrap();
        kernel.rewind().unwrap();
        let control = Channel::pair().unwrap();
        let streams = Channel::pair().unwrap();
        let vsock = Vsock { host: streams.1.as_fd().as_raw_fd(), guest_cid: 3, host_cid: 2 };
        let console = std::io::pipe().unwrap();
        let config = Config {
            kvm: kvm.as_raw_fd(),
            control: control.1.as_fd().as_raw_fd(),
            kernel: kernel.as_raw_fd(),
            initramfs: None,
            console: Some(console.1.as_raw_fd()),
            command_line: vec![],
            vcpus: Vcpus { online: 1, max: 1 },
            memory: Memory { mib: 32, hotplug_mib: 0 },
            start_paused: false,
            devices: Devices { rng: true, vsock: Some(vsock), ..Devices::default() },
        };
        Self { kvm, kernel, config, more: vec![], control, streams, console }
    }

    /// Lets the process inherit a file, and gives its number there.
    pub fn inherit(&mut self, file: File) -> RawFd {
        let number = file.as_raw_fd();
        self.more.push(file);
        number
    }

    /// Starts the process, and writes the configuration.
    pub fn start(self) -> Process {
        let text = serde_json::to_vec(&self.config).unwrap();
        let mut process = self.spawn();
        process.stdin.take().unwrap().write_all(&text).unwrap();
        process
    }

    /// Starts the process, which then waits for its configuration.
    pub fn spawn(self) -> Process {
        let Self { kvm, kernel, more, control, streams, console, .. } = self;
        let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
        command.arg("vmm").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let wires = [control.1.as_fd(), streams.1.as_fd(), console.1.as_fd()];
        let keep: Vec<BorrowedFd<'_>> = [kvm.as_fd(), kernel.as_fd()]
            .into_iter()
            .chain(more.iter().map(AsFd::as_fd))
            .chain(wires)
            .collect();
        let mut child = spawn_bound(&mut command, &keep).unwrap();
        drop((control.1, streams.1, console.1));
        let stdin = child.stdin.take();
        let (sender, events) = channel();
        let control = Client::start(control.0, move |event| drop(sender.send(event))).unwrap();
        let vsock = relay::serve(streams.0).unwrap();
        Process { child, stdin, control: Some(control), events, vsock, console: console.0 }
    }
}

/// A VMM's process.
pub struct Process {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub control: Option<Client>,
    pub events: Receiver<Option<Event>>,
    pub vsock: VsockHandle,
    pub console: PipeReader,
}

/// How a VMM ended, and its last words.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
    pub console: String,
}

impl Process {
    pub fn control(&self) -> &Client {
        self.control.as_ref().unwrap()
    }

    pub fn next_event(&self) -> Option<Event> {
        self.events.recv_timeout(SOON).unwrap()
    }

    /// Waits for its end, in bounds.
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the VMM does not end");
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let mut console = String::new();
        self.console.read_to_string(&mut console).unwrap();
        Ended { status, stderr, console }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
