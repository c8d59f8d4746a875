//! Tasks on a file that is a vector, and that does what it is told as badly as told.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::Memory;
use crate::virtio::blk::core::testing::pending;
use crate::virtio::blk::request::Segment;
use crate::virtio::testing;

fn segments(memory: &Arc<Memory>, pieces: &[(u64, u32)]) -> Segments {
    let one = |&(addr, len)| Segment { addr: GuestAddress(addr), len };
    Segments::of_guest(memory, &pieces.iter().map(one).collect::<Vec<_>>()).unwrap()
}

/// Where the bytes are that a step would move, as numbers: nothing is read through them.
fn addresses(data: &Segments) -> Vec<(usize, usize)> {
    data.pieces().iter().map(|piece| (piece.iov_base.addr(), piece.iov_len)).collect()
}

fn total(data: &Segments) -> usize {
    data.pieces().iter().map(|piece| piece.iov_len).sum()
}

fn range(offset: u64, len: u64, unmap: bool) -> Range {
    Range { offset, len, unmap }
}

#[test]
fn short_transfer_goes_on_where_it_stopped() {
    let memory = Arc::new(testing::memory());
    let data = segments(&memory, &[(0x1000, 100), (0x5000, 412)]);
    let first = addresses(&data);
    let mut task = Task::read(pending(), 1024, data);
    assert_eq!(task.advance(Ok(130)), None);
    let Step::Read { offset, data } = task.step() else { panic!("not a read") };
    assert_eq!(offset, 1024 + 130);
    assert_eq!(addresses(data), [(first[1].0 + 30, 382)]);
    assert_eq!(task.advance(Ok(382)), Some(Answer::Done));
}

#[test]
fn end_of_the_file_is_an_error_and_not_zeroes() {
    let memory = Arc::new(testing::memory());
    let mut task = Task::read(pending(), 0, segments(&memory, &[(0, 512)]));
    assert_eq!(task.advance(Ok(100)), None);
    assert_eq!(task.advance(Ok(0)), Some(Answer::IoError));
}

#[test]
fn errors_of_the_file_are_told() {
    let memory = Arc::new(testing::memory());
    for error in [Errno::EIO, Errno::ENOSPC, Errno::EFBIG, Errno::EOPNOTSUPP] {
        let data = segments(&memory, &[(0, 512)]);
        assert_eq!(Task::write(pending(), 0, data).advance(Err(error)), Some(Answer::IoError));
    }
    assert_eq!(Task::flush(pending()).advance(Err(Errno::EIO)), Some(Answer::IoError));
    let ranges = vec![range(0, 512, true)];
    assert_eq!(
        Task::discard(pending(), ranges.clone()).advance(Err(Errno::EIO)),
        Some(Answer::IoError)
    );
    assert_eq!(
        Task::write_zeroes(pending(), ranges).advance(Err(Errno::ENOSPC)),
        Some(Answer::IoError)
    );
}

#[test]
fn interruptions_are_tried_again_and_not_for_ever() {
    let memory = Arc::new(testing::memory());
    let mut task = Task::write(pending(), 0, segments(&memory, &[(0, 512)]));
    for _ in 0..MAX_RETRIES {
        assert_eq!(task.advance(Err(Errno::EINTR)), None);
    }
    assert_eq!(task.advance(Ok(256)), None);
    for _ in 0..MAX_RETRIES {
        assert_eq!(task.advance(Err(Errno::EAGAIN)), None);
    }
    assert_eq!(task.advance(Err(Errno::EAGAIN)), Some(Answer::IoError));
}

#[test]
fn stable_write_ends_with_a_sync() {
    let memory = Arc::new(testing::memory());
    let mut task = Task::write(pending(), 0, segments(&memory, &[(0, 512)])).stable();
    assert_eq!(task.advance(Ok(512)), None);
    assert!(matches!(task.step(), Step::Sync));
    assert_eq!(task.advance(Ok(0)), Some(Answer::Done));
    let mut task = Task::read(pending(), 0, segments(&memory, &[(0, 512)])).stable();
    assert_eq!(task.advance(Ok(512)), Some(Answer::Done));
}

#[test]
fn discard_that_the_file_cannot_do_is_done() {
    let ranges = vec![range(0, 512, false), range(1024, 512, false)];
    let mut task = Task::discard(pending(), ranges.clone());
    let Step::Clear { how: Clear::Punch, offset: 0, len: 512 } = task.step() else {
        panic!("{:?}", task.step())
    };
    assert_eq!(task.advance(Ok(0)), None);
    let Step::Clear { how: Clear::Punch, offset: 1024, len: 512 } = task.step() else {
        panic!("{:?}", task.step())
    };
    assert_eq!(task.advance(Ok(0)), Some(Answer::Done));
    assert_eq!(
        Task::discard(pending(), ranges).advance(Err(Errno::EOPNOTSUPP)),
        Some(Answer::Done)
    );
}

#[test]
fn zeroes_are_written_where_the_file_knows_no_other_way() {
    let len = 3 << 20;
    let mut task = Task::write_zeroes(pending(), vec![range(4096, len, true)]);
    assert!(matches!(task.step(), Step::Clear { how: Clear::Punch, .. }));
    assert_eq!(task.advance(Err(Errno::EOPNOTSUPP)), None);
    assert!(matches!(task.step(), Step::Clear { how: Clear::Zero, .. }));
    assert_eq!(task.advance(Err(Errno::EOPNOTSUPP)), None);
    let mut at = 4096;
    loop {
        let Step::Write { offset, data } = task.step() else { panic!("{:?}", task.step()) };
        assert_eq!(offset, at);
        // A short one in between.
        let wrote = total(data).min(700_001);
        at += wrote as u64;
        if let Some(answer) = task.advance(Ok(wrote)) {
            assert_eq!(answer, Answer::Done);
            break;
        }
    }
    assert_eq!(at, 4096 + len);
    // Space is kept where the driver wants it kept.
    let task = Task::write_zeroes(pending(), vec![range(0, 512, false)]);
    assert!(matches!(task.step(), Step::Clear { how: Clear::Zero, .. }));
}

proptest! {
    /// However short the transfers are, each byte is moved once and in order.
    #[test]
    fn any_short_transfers_move_everything_once(
        lens in prop::collection::vec(1..5000u32, 1..30),
        shorts in prop::collection::vec(1..3000usize, 1..50),
    ) {
        let memory = Arc::new(testing::memory());
        let mut addr = 0;
        let pieces: Vec<(u64, u32)> = lens.iter().map(|&len| {
            let piece = (addr, len);
            addr += u64::from(len) + 64;
            piece
        }).collect();
        let whole: Vec<(usize, usize)> = addresses(&segments(&memory, &pieces));
        let expected: Vec<usize> =
            whole.iter().flat_map(|&(base, len)| base..base + len).collect();
        let mut task = Task::write(pending(), 0, segments(&memory, &pieces));
        let mut moved = Vec::new();
        let mut turns = shorts.iter().cycle();
        loop {
            let Step::Write { offset, data } = task.step() else { panic!("not a write") };
            prop_assert_eq!(offset, moved.len() as u64);
            let bytes: Vec<usize> =
                addresses(data).into_iter().flat_map(|(base, len)| base..base + len).collect();
            let len = bytes.len().min(*turns.next().unwrap());
            prop_assert!(len > 0);
            moved.extend_from_slice(&bytes[..len]);
            if task.advance(Ok(len)).is_some() {
                break;
            }
        }
        prop_assert_eq!(moved, expected);
    }
}

#[test]
fn segments_outside_of_memory_are_none() {
    let memory = Arc::new(testing::memory());
    memory.write_obj(1u8, GuestAddress(0)).unwrap();
    let beyond = Segment { addr: GuestAddress(testing::MEMORY_BYTES as u64 - 1), len: 2 };
    assert!(Segments::of_guest(&memory, &[beyond]).is_none());
}
