//! A few instructions each on real KVM. Where `/dev/kvm` does not open they say so.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EfdFlags;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::jail::filter;
use crate::memory::{Ram, Size};

impl Machine {
    /// As [`Self::prepare`], and the guest runs.
    fn start(
        self,
        entry: impl FnOnce(&mut kvm_regs, &mut kvm_sregs),
        legacy: &Legacy,
        set_up: SetUp,
    ) -> Result<Running, MachineError> {
        let running = self.prepare(entry, legacy, set_up)?;
        running.resume();
        Ok(running)
    }
}

/// Where the guests' code is, and one of their data.
const CODE: u64 = 0x1000;
/// Code of the second processor: the vector of its wake-up is the page's number.
const SECOND_CODE: u64 = 0x2000;
const DATA: u64 = 0x3000;
const MEMORY_BYTES: usize = 64 << 10;
/// Nothing here takes so long.
const LONG: Duration = Duration::from_secs(20);

/// Sends 6 bytes of data to the serial port by one instruction, and resets.
const HELLO: &[u8] = &[
    0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
    0xbe, 0x00, 0x30, 0, 0, // mov esi, DATA
    0xb9, 6, 0, 0, 0,    // mov ecx, 6
    0xfc, // cld
    0xf3, 0x6e, // rep outsb
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xeb, 0xfe, // jmp $
];

/// Counts for ever, without an exit.
const COUNT: &[u8] = &[
    0xff, 0x05, 0x00, 0x30, 0, 0, // inc dword [DATA]
    0xeb, 0xf8, // jmp to the start
];

/// An invalid instruction, with no handler for it nor for what follows.
const TRIPLE_FAULT: &[u8] = &[0x0f, 0x0b]; // ud2

/// Writes to the serial port for ever.
const FLOOD: &[u8] = &[
    0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
    0xb0, b'x', // mov al, 'x'
    0xee, // out dx, al
    0xeb, 0xfd, // jmp to the out
];

/// Reads where nothing is, writes there, and resets.
const UNKNOWN: &[u8] = &[
    0xa1, 0, 0, 0, 0xc0, // mov eax, [0xc0000000]
    0xa3, 0x00, 0x30, 0, 0, // mov [DATA], eax
    0xa3, 0, 0, 0, 0xc0, // mov [0xc0000000], eax
    0xe4, 0x99, // in al, 0x99
    0xa2, 0x04, 0x30, 0, 0, // mov [DATA + 4], al
    0xe5, 0x98, // in eax, 0x98
    0xa3, 0x08, 0x30, 0, 0, // mov [DATA + 8], eax
    0xe6, 0x99, // out 0x99, al
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xeb, 0xfe, // jmp $
];

/// Wakes the second processor, waits for what it writes, and resets.
const WAKE: &[u8] = &[
    0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0, 0, // mov dword [SVR], 0x1ff: on
    0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0, 0, 0, 0x01, // mov dword [ICR high], id 1
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0, 0, // mov dword [ICR], INIT
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x02, 0x46, 0, 0, // mov dword [ICR], SIPI of page 2
    0xf3, 0x90, // pause
    0x80, 0x3d, 0x00, 0x30, 0, 0, 0x42, // cmp byte [DATA], 0x42
    0x75, 0xf5, // jne to the pause
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xeb, 0xfe, // jmp $
];

/// 16-bit code.
const SECOND: &[u8] = &[
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xc6, 0x06, 0x00, 0x30, 0x42, // mov byte [DATA], 0x42
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// Notifies queue 1, queue 7, and queue 1 by half a register; then resets.
const NOTIFY: &[u8] = &[
    0xc7, 0x05, 0x50, 0, 0, 0xd0, 1, 0, 0, 0, // mov dword [QueueNotify], 1
    0xc7, 0x05, 0x50, 0, 0, 0xd0, 7, 0, 0, 0, // mov dword [QueueNotify], 7
    0x66, 0xc7, 0x05, 0x50, 0, 0, 0xd0, 1, 0, // mov word [QueueNotify], 1
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xeb, 0xfe, // jmp $
];

/// Routes the first device's interrupt to vector 0x45, says so, waits for it to be requested, and
/// resets.
const INTERRUPT: &[u8] = &[
    0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0, 0, // mov dword [SVR], 0x1ff: on
    0xc7, 0x05, 0, 0, 0xc0, 0xfe, 0x1b, 0, 0, 0, // mov dword [IOREGSEL], pin 5, high
    0xc7, 0x05, 0x10, 0, 0xc0, 0xfe, 0, 0, 0, 0, // mov dword [IOWIN], to id 0
    0xc7, 0x05, 0, 0, 0xc0, 0xfe, 0x1a, 0, 0, 0, // mov dword [IOREGSEL], pin 5, low
    0xc7, 0x05, 0x10, 0, 0xc0, 0xfe, 0x45, 0, 0, 0, // mov dword [IOWIN], 0x45: edge
    0xc6, 0x05, 0x00, 0x30, 0, 0, 1, // mov byte [DATA], 1
    0xf7, 0x05, 0x20, 0x02, 0xe0, 0xfe, 0x20, 0, 0, 0, // test dword [IRR 2], bit 5
    0x74, 0xf4, // jz to the test
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xeb, 0xfe, // jmp $
];

/// Goes on where there is no memory.
const ASTRAY: &[u8] = &[
    0xb8, 0, 0, 0, 0xc0, // mov eax, 0xc0000000
    0xff, 0xe0, // jmp eax
];

/// Where memory is that comes and goes.
const FAR: u64 = 0x1000_0000;

/// Reads there for ever, and tells what.
const WATCH: &[u8] = &[
    0xa1, 0, 0, 0, 0x10, // mov eax, [FAR]
    0xa3, 0x00, 0x30, 0, 0, // mov [DATA], eax
    0xeb, 0xf4, // jmp to the start
];

/// Nothing wakes this processor.
const HALT: &[u8] = &[
    0xfa, // cli
    0xf4, // hlt
];

fn open_kvm() -> Option<OwnedFd> {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Some(file.into()),
        Err(error) => {
            println!("SKIPPED: /dev/kvm: {error}");
            None
        }
    }
}

fn memory(code: &[u8]) -> Memory {
    let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    memory.write_slice(code, GuestAddress(CODE)).unwrap();
    memory
}

/// 32-bit code with flat segments, without paging and without interrupt handlers.
fn enter(regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
    regs.rip = CODE;
    regs.rflags = 2;
    let (code, data) = (0b1011, 0b0011);
    let segments =
        [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss];
    for (index, segment) in segments.into_iter().enumerate() {
        segment.base = 0;
        segment.limit = u32::MAX;
        segment.selector = if index == 0 { 8 } else { 16 };
        segment.type_ = if index == 0 { code } else { data };
        (segment.present, segment.s, segment.db, segment.g) = (1, 1, 1, 1);
    }
    sregs.idt.limit = 0;
    let protection = 1;
    sregs.cr0 |= protection;
}

fn nothing_to_set_up() -> SetUp {
    Arc::new(|| Ok(()))
}

/// A running guest, its memory, and the reading end of its console.
struct Guest {
    running: Running,
    memory: Memory,
    console: File,
}

impl Guest {
    fn start(code: &[u8], vcpus: u8) -> Option<Self> {
        let memory = memory(code);
        let machine = Machine::new(open_kvm()?, &memory, vcpus).unwrap();
        Some(Self::run(machine, memory))
    }

    fn run(machine: Machine, memory: Memory) -> Self {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let legacy = Legacy::new(Some(writer)).unwrap();
        let running = machine.start(enter, &legacy, nothing_to_set_up()).unwrap();
        Self { running, memory, console: reader.into() }
    }

    fn wait(&self) -> Exit {
        wait_for(self.running.exit_event());
        self.running.exit().unwrap()
    }

    fn data(&self) -> u32 {
        self.memory.read_obj(GuestAddress(DATA)).unwrap()
    }

    fn wait_for_data(&self, what: impl Fn(u32) -> bool) {
        let start = Instant::now();
        while !what(self.data()) {
            assert!(start.elapsed() < LONG, "the guest stands still at {}", self.data());
            std::thread::yield_now();
        }
    }

    fn exits(&self, reason: &str) -> u64 {
        self.running.stats().exits[reason]
    }
}

fn wait_for(event: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(event, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LONG).unwrap();
    assert_eq!(poll(&mut fds, timeout).unwrap(), 1, "nothing happened");
}

/// Fails instead of hanging for ever.
fn in_time(what: &str, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let (done, finished) = std::sync::mpsc::channel();
        scope.spawn(move || {
            work();
            let _ = done.send(());
        });
        if finished.recv_timeout(LONG).is_err() {
            eprintln!("{what} takes too long");
            std::process::abort();
        }
    });
}

#[test]
fn bytes_to_the_serial_port_arrive_and_a_reset_ends_the_machine() {
    let memory = memory(HELLO);
    memory.write_slice(b"hello\n", GuestAddress(DATA)).unwrap();
    let Some(kvm) = open_kvm() else { return };
    let mut guest = Guest::run(Machine::new(kvm, &memory, 1).unwrap(), memory);
    assert_eq!(guest.wait(), Exit::Reset);
    guest.running.stop();
    assert!(guest.exits("port_write") >= 2);
    let mut text = [0; 6];
    guest.console.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello\n");
    assert_eq!(guest.running.stats().console_lost_bytes, 0);
}

#[test]
fn a_guest_without_exits_is_paused_resumed_and_stopped() {
    let Some(mut guest) = Guest::start(COUNT, 1) else { return };
    guest.wait_for_data(|count| count > 0);
    assert!(guest.running.pause(LONG));
    let count = guest.data();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(guest.data(), count, "the guest runs while it is paused");
    guest.running.resume();
    guest.wait_for_data(|now| now != count);
    in_time("stop", || guest.running.stop());
    let count = guest.data();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.data(), count);
    assert_eq!(guest.running.exit(), None, "it did not end by itself");
    assert!(guest.exits("interrupted") >= 2);
}

#[test]
fn no_pause_and_no_stop_is_lost() {
    // The second processor waits to be woken, which nobody does.
    let Some(mut guest) = Guest::start(COUNT, 2) else { return };
    in_time("pausing often", || {
        for _ in 0..300 {
            assert!(guest.running.pause(LONG));
            guest.running.resume();
        }
        assert!(guest.running.pause(LONG));
        assert!(guest.running.pause(LONG));
    });
    let count = guest.data();
    guest.running.resume();
    guest.wait_for_data(|now| now != count);
    in_time("stop", || {
        guest.running.stop();
        guest.running.stop();
        assert!(guest.running.pause(LONG));
        guest.running.resume();
    });
}

#[test]
fn a_kick_before_the_guest_is_entered_is_not_lost() {
    let Some(kvm) = open_kvm() else { return };
    let memory = memory(COUNT);
    let machine = Machine::new(kvm, &memory, 1).unwrap();
    let mut vcpu = machine.vm.create_vcpu(0).unwrap();
    state::set_first(&vcpu, enter).unwrap();
    let page = kick::RunPage::new(&vcpu).unwrap();
    crate::signal::install().unwrap();
    let (enter, go) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        go.recv().unwrap();
        vcpu.run().map(drop).map_err(|error| error.errno())
    });
    // The signal finds a thread that waits for something else.
    kick::kick(&page, &thread);
    std::thread::sleep(Duration::from_millis(20));
    enter.send(()).unwrap();
    in_time("the kick", move || assert_eq!(thread.join().unwrap(), Err(libc::EINTR)));
    assert_eq!(memory.read_obj::<u32>(GuestAddress(DATA)).unwrap(), 0, "the guest was entered");
}

#[test]
fn a_paused_or_halted_guest_is_stopped() {
    let Some(mut guest) = Guest::start(COUNT, 1) else { return };
    assert!(guest.running.pause(LONG));
    in_time("stop", || guest.running.stop());
    let Some(guest) = Guest::start(HALT, 1) else { return };
    in_time("pause and drop", move || {
        assert!(guest.running.pause(LONG));
        guest.running.resume();
        drop(guest);
    });
}

#[test]
fn a_triple_fault_is_told() {
    let Some(guest) = Guest::start(TRIPLE_FAULT, 1) else { return };
    assert_eq!(guest.wait(), Exit::TripleFault);
    assert!(guest.running.pause(LONG));
    assert_eq!(guest.exits("shutdown"), 1);
}

#[test]
fn a_guest_that_goes_astray_ends_and_says_where() {
    let Some(guest) = Guest::start(ASTRAY, 1) else { return };
    let exit = guest.wait();
    match exit {
        Exit::InternalError { rip, .. } => assert_eq!(rip, 0xc000_0000),
        // A KVM may hand the guest an exception instead.
        other => assert_eq!(other, Exit::TripleFault),
    }
}

#[test]
fn a_flood_of_the_console_that_nobody_reads_is_bounded() {
    let Some(mut guest) = Guest::start(FLOOD, 1) else { return };
    let start = Instant::now();
    while guest.running.stats().console_lost_bytes == 0 {
        assert!(start.elapsed() < LONG, "the guest stands still");
        std::thread::yield_now();
    }
    in_time("stop", || guest.running.stop());
    let writes = guest.exits("port_write");
    let lost = guest.running.stats().console_lost_bytes;
    drop(guest.running);
    let mut text = Vec::new();
    guest.console.read_to_end(&mut text).unwrap();
    assert_eq!(text.len() as u64 + lost, writes);
}

#[test]
fn where_nothing_is_all_bits_are_one_and_the_guest_goes_on() {
    let Some(guest) = Guest::start(UNKNOWN, 1) else { return };
    assert_eq!(guest.wait(), Exit::Reset);
    assert_eq!(guest.data(), u32::MAX);
    let [byte, word] = [4, 8].map(|at| guest.memory.read_obj(GuestAddress(DATA + at)).unwrap());
    assert_eq!((byte, word), (0xff_u32, u32::MAX));
    let stats = guest.running.stats();
    assert_eq!((stats.unknown_mmio, stats.unknown_ports), (2, 3));
    assert_eq!((stats.exits["mmio_read"], stats.exits["mmio_write"]), (1, 1));
    assert_eq!(stats.exits["port_read"], 2);
}

#[test]
fn the_second_processor_waits_until_it_is_woken() {
    let memory = memory(WAKE);
    memory.write_slice(SECOND, GuestAddress(SECOND_CODE)).unwrap();
    let Some(kvm) = open_kvm() else { return };
    let guest = Guest::run(Machine::new(kvm, &memory, 2).unwrap(), memory);
    assert_eq!(guest.wait(), Exit::Reset);
    assert_eq!(guest.data(), 0x42);
    in_time("drop", || drop(guest));
}

/// Remembers what was written.
#[derive(Default)]
struct Written(Mutex<Vec<(u64, Vec<u8>)>>);

impl Registers for Written {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn event() -> EventFd {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap()
}

#[test]
fn the_number_of_a_queue_kicks_it_without_an_exit() {
    let memory = memory(NOTIFY);
    let Some(kvm) = open_kvm() else { return };
    let mut machine = Machine::new(kvm, &memory, 1).unwrap();
    let (written, kicks) = (Arc::new(Written::default()), [event(), event()]);
    let registers = Arc::clone(&written) as Arc<dyn Registers>;
    let slot = machine.attach_registers(registers, event().as_fd(), &kicks).unwrap();
    assert_eq!(slot, Slot { address: layout::VIRTIO_BASE, gsi: layout::VIRTIO_FIRST_GSI });
    let guest = Guest::run(machine, memory);
    assert_eq!(guest.wait(), Exit::Reset);
    assert!(kicks[0].read().is_err());
    assert_eq!(kicks[1].read().unwrap(), 1);
    // No queue, and no whole register: the device hears of these.
    let rest = [(QUEUE_NOTIFY, vec![7, 0, 0, 0]), (QUEUE_NOTIFY, vec![1, 0])];
    assert_eq!(*written.0.lock().unwrap(), rest);
}

#[test]
fn an_event_of_a_device_is_an_interrupt_of_the_guest() {
    let memory = memory(INTERRUPT);
    let Some(kvm) = open_kvm() else { return };
    let mut machine = Machine::new(kvm, &memory, 1).unwrap();
    let interrupt = event();
    machine.attach_registers(Arc::new(Written::default()), interrupt.as_fd(), &[]).unwrap();
    let guest = Guest::run(machine, memory);
    guest.wait_for_data(|data| data == 1);
    assert_eq!(guest.running.exit(), None);
    interrupt.write(1).unwrap();
    assert_eq!(guest.wait(), Exit::Reset);
}

#[test]
fn there_are_as_many_places_as_interrupts() {
    let Some(kvm) = open_kvm() else { return };
    let mut machine = Machine::new(kvm, &memory(HALT), 1).unwrap();
    let mut attach =
        || machine.attach_registers(Arc::new(Written::default()), event().as_fd(), &[event()]);
    for index in 0..layout::MAX_VIRTIO_DEVICES {
        assert_eq!(attach().unwrap(), Slot::at(index).unwrap());
    }
    assert_eq!(Slot::at(layout::MAX_VIRTIO_DEVICES - 1).unwrap().gsi, layout::VIRTIO_LAST_GSI);
    assert!(matches!(attach(), Err(MachineError::NoPlace)));
}

#[test]
fn a_prepared_machine_waits_to_be_resumed() {
    let Some(kvm) = open_kvm() else { return };
    let memory = memory(COUNT);
    let machine = Machine::new(kvm, &memory, 2).unwrap();
    let legacy = Legacy::new(None).unwrap();
    let running = machine.prepare(enter, &legacy, nothing_to_set_up()).unwrap();
    let count = || memory.read_obj::<u32>(GuestAddress(DATA)).unwrap();
    assert!(running.pause(LONG));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(count(), 0);
    assert_eq!(running.stats().exits["interrupted"], 0);
    running.resume();
    let start = Instant::now();
    while count() == 0 {
        assert!(start.elapsed() < LONG, "the guest does not run");
        std::thread::yield_now();
    }
}

#[test]
fn every_thread_is_set_up_before_the_guest_runs() {
    let Some(kvm) = open_kvm() else { return };
    let memory = memory(COUNT);
    let prepared = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&prepared);
    let seen = memory.clone();
    let set_up: SetUp = Arc::new(move || {
        let count: u32 = seen.read_obj(GuestAddress(DATA)).unwrap();
        assert_eq!(count, 0, "the guest runs already");
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let legacy = Legacy::new(None).unwrap();
    let machine = Machine::new(kvm, &memory, 3).unwrap();
    let _running = machine.start(enter, &legacy, set_up).unwrap();
    assert_eq!(prepared.load(Ordering::SeqCst), 3);
}

#[test]
fn a_thread_that_cannot_be_set_up_is_an_error_and_nothing_runs() {
    let Some(kvm) = open_kvm() else { return };
    let memory = memory(COUNT);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let set_up: SetUp = Arc::new(move || match counter.fetch_add(1, Ordering::SeqCst) {
        1 => Err(std::io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    let legacy = Legacy::new(None).unwrap();
    let machine = Machine::new(kvm, &memory, 4).unwrap();
    in_time("start", || {
        let error = machine.start(enter, &legacy, set_up).unwrap_err();
        assert!(matches!(error, MachineError::Thread { step: "set up the thread", .. }));
    });
    assert_eq!(memory.read_obj::<u32>(GuestAddress(DATA)).unwrap(), 0);
}

#[test]
fn processors_do_all_their_work_within_the_filter_of_system_calls() {
    let jailed = || filter::install(filter::Role::Vcpu).map_err(std::io::Error::other);
    let start = |memory: &Memory, kvm| {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let legacy = Legacy::new(Some(writer)).unwrap();
        let mut machine = Machine::new(kvm, memory, 2).unwrap();
        machine.attach_registers(Arc::new(Written::default()), event().as_fd(), &[]).unwrap();
        let running = machine.start(enter, &legacy, Arc::new(jailed)).unwrap();
        Guest { running, memory: memory.clone(), console: reader.into() }
    };
    for code in [HELLO, NOTIFY, UNKNOWN, TRIPLE_FAULT, ASTRAY] {
        let Some(kvm) = open_kvm() else { return };
        let mut guest = start(&memory(code), kvm);
        guest.wait();
        in_time("stop", || guest.running.stop());
    }
    for code in [COUNT, FLOOD, HALT] {
        let Some(kvm) = open_kvm() else { return };
        let mut guest = start(&memory(code), kvm);
        for _ in 0..20 {
            assert!(guest.running.pause(LONG));
            guest.running.resume();
        }
        in_time("stop", || guest.running.stop());
        assert_eq!(guest.running.exit(), None);
    }
}

#[test]
fn memory_is_shown_and_hidden_while_the_guest_reads_it() {
    let Some(kvm) = open_kvm() else { return };
    let ranges = [(GuestAddress(0), MEMORY_BYTES), (GuestAddress(FAR), 1 << 20)];
    let memory = Memory::from_ranges(&ranges).unwrap();
    memory.write_slice(WATCH, GuestAddress(CODE)).unwrap();
    memory.write_obj(7u32, GuestAddress(FAR)).unwrap();
    let mut guest = Guest::run(Machine::new(kvm, &memory, 1).unwrap(), memory);
    let (mut shown, mut hidden) = (Duration::ZERO, Duration::ZERO);
    const TIMES: u32 = 20;
    for _ in 0..TIMES {
        guest.wait_for_data(|data| data == 7);
        let start = Instant::now();
        guest.running.hide(1).unwrap();
        hidden += start.elapsed();
        guest.wait_for_data(|data| data == u32::MAX);
        let start = Instant::now();
        guest.running.show(1).unwrap();
        shown += start.elapsed();
    }
    eprintln!("shown in {:?}, hidden in {:?}", shown / TIMES, hidden / TIMES);
    guest.wait_for_data(|data| data == 7);
    assert!(guest.running.stats().unknown_mmio >= TIMES.into());
    assert!(guest.running.show(2).is_err(), "there is no such region");
    in_time("stop", || guest.running.stop());
    assert_eq!(guest.running.exit(), None);
}

#[test]
fn hotplug_memory_is_not_the_guest_s_from_the_start() {
    let Some(kvm) = open_kvm() else { return };
    let ram = Ram::create(Size { mib: 32, hotplug_mib: 256 }).unwrap();
    ram.guest().write_slice(HELLO, GuestAddress(CODE)).unwrap();
    let guest = Guest::run(Machine::new(kvm, ram.guest(), 1).unwrap(), ram.guest().clone());
    assert_eq!(guest.wait(), Exit::Reset);
    assert!(guest.running.hide(1).is_err(), "no slot has it");
    guest.running.show(1).unwrap();
    guest.running.show(2).unwrap();
    guest.running.hide(1).unwrap();
}

#[test]
fn what_is_no_kvm_is_refused() {
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let error = Machine::new(null, &memory(HALT), 1).unwrap_err();
    assert!(matches!(error, MachineError::Version(-1)));
    assert_eq!(error.to_string(), "use KVM: its version is -1, not 12");
}

#[test]
fn a_machine_without_processors_is_refused() {
    let Some(kvm) = open_kvm() else { return };
    let error = Machine::new(kvm, &memory(HALT), 0).unwrap_err();
    assert!(matches!(error, MachineError::Vcpus { wanted: 0, .. }));
}

#[test]
fn a_machine_has_thirty_two_processors() {
    let Some(mut guest) = Guest::start(COUNT, 32) else { return };
    guest.wait_for_data(|count| count > 0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.running.pause(LONG));
    assert!(guest.exits("again") < 1000, "those that wait to be woken keep the host busy");
    in_time("stop", || guest.running.stop());
}
