//! Chains as drivers build them, and as they should not.

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{self, MEMORY_BYTES, NEXT, WRITE};

const SHAPE: Shape = Shape { sectors: 1000, read_only: false };
const HEADER: u64 = 0x1000;
const DATA: u64 = 0x10_0000;
const STATUS: u64 = 0x2000;

/// Address, length, writable.
type Piece = (u64, u32, bool);

fn chain(pieces: &[Piece]) -> Vec<Descriptor> {
    let last = pieces.len().saturating_sub(1);
    let one = |(index, &(addr, len, writable)): (usize, &Piece)| {
        let flags = if writable { WRITE } else { 0 } | if index < last { NEXT } else { 0 };
        Descriptor::new(addr, len, flags, 0)
    };
    pieces.iter().enumerate().map(one).collect()
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

fn parse_with(
    kind: u32,
    sector: u64,
    pieces: &[Piece],
    shape: &Shape,
) -> Result<Operation, Reason> {
    let memory = testing::memory();
    memory.write_slice(&header(kind, sector), GuestAddress(HEADER)).unwrap();
    let outcome = parse(chain(pieces).into_iter(), &memory, shape);
    if let Ok(request) = &outcome {
        assert_eq!(request.status, GuestAddress(STATUS));
    }
    outcome.map(|request| request.operation).map_err(|refused| refused.reason)
}

/// A request in the form that Linux gives it.
fn usual(kind: u32, sector: u64, data: &[Piece]) -> Result<Operation, Reason> {
    let pieces = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
    parse_with(kind, sector, &pieces, &SHAPE)
}

fn ranges(kind: u32, ranges: &[Vec<u8>], shape: &Shape) -> Result<Operation, Reason> {
    let memory = testing::memory();
    let bytes = ranges.concat();
    memory.write_slice(&header(kind, 0), GuestAddress(HEADER)).unwrap();
    memory.write_slice(&bytes, GuestAddress(DATA)).unwrap();
    let len = u32::try_from(bytes.len()).unwrap();
    let pieces = [(HEADER, 16, false), (DATA, len, false), (STATUS, 1, true)];
    let outcome = parse(chain(&pieces).into_iter(), &memory, shape);
    outcome.map(|request| request.operation).map_err(|refused| refused.reason)
}

fn segment(addr: u64, len: u32) -> Segment {
    Segment { addr: GuestAddress(addr), len }
}

#[test]
fn usual_requests_are_understood() {
    let data = vec![segment(DATA, 512), segment(DATA + 8192, 1024)];
    let pieces = |writable| [(DATA, 512, writable), (DATA + 8192, 1024, writable)];
    let read = Operation::Read { offset: 997 * 512, data: data.clone() };
    assert_eq!(usual(kind::IN, 997, &pieces(true)), Ok(read));
    assert_eq!(
        usual(kind::OUT, 0, &pieces(false)),
        Ok(Operation::Write { offset: 0, data: data.clone() })
    );
    assert_eq!(usual(kind::FLUSH, 0, &[]), Ok(Operation::Flush));
    let id = Operation::GetId { data: vec![segment(DATA, 20)] };
    assert_eq!(usual(kind::GET_ID, 0, &[(DATA, 20, true)]), Ok(id));
    let byte_range = |sector: u64, sectors: u64, unmap| Range {
        offset: sector * 512,
        len: sectors * 512,
        unmap,
    };
    assert_eq!(
        ranges(kind::DISCARD, &[range(1, 2, 0), range(999, 1, 0)], &SHAPE),
        Ok(Operation::Discard { ranges: vec![byte_range(1, 2, false), byte_range(999, 1, false)] })
    );
    assert_eq!(
        ranges(kind::WRITE_ZEROES, &[range(8, 992, 1)], &SHAPE),
        Ok(Operation::WriteZeroes { ranges: vec![byte_range(8, 992, true)] })
    );
}

#[test]
fn status_may_share_its_descriptor_and_the_header_may_be_in_pieces() {
    let pieces = [(HEADER, 5, false), (HEADER + 5, 11, false), (STATUS - 512, 513, true)];
    let read = Operation::Read { offset: 512, data: vec![segment(STATUS - 512, 512)] };
    assert_eq!(parse_with(kind::IN, 1, &pieces, &SHAPE), Ok(read));
    // Header and data in one.
    let pieces = [(HEADER, 16 + 512, false), (STATUS, 1, true)];
    let write = Operation::Write { offset: 512, data: vec![segment(HEADER + 16, 512)] };
    assert_eq!(parse_with(kind::OUT, 1, &pieces, &SHAPE), Ok(write));
    // Descriptors of no length are nothing.
    let pieces =
        [(HEADER, 0, false), (HEADER, 16, false), (DATA, 0, true), (STATUS, 1, true), (7, 0, true)];
    assert_eq!(parse_with(kind::FLUSH, 0, &pieces, &SHAPE), Ok(Operation::Flush));
}

#[test]
fn chains_that_are_no_requests_are_refused() {
    let end = MEMORY_BYTES as u64;
    for (pieces, reason) in [
        (vec![(HEADER, 16, true), (STATUS, 1, true)], Reason::Header),
        (vec![(HEADER, 15, false), (STATUS, 1, true)], Reason::Header),
        (vec![(STATUS, 1, true)], Reason::Header),
        (vec![(HEADER, 16, false)], Reason::NoStatus),
        (vec![(HEADER, 16, false), (STATUS, 0, true)], Reason::NoStatus),
        (vec![(STATUS, 1, true), (HEADER, 16, false)], Reason::Order),
        (vec![(end - 15, 16, false), (STATUS, 1, true)], Reason::Memory),
        (vec![(u64::MAX - 3, 16, false), (STATUS, 1, true)], Reason::Memory),
        (vec![(HEADER, 16, false), (end, 1, true)], Reason::Memory),
        (vec![], Reason::Cut),
    ] {
        assert_eq!(parse_with(kind::IN, 0, &pieces, &SHAPE), Err(reason), "{pieces:?}");
    }
}

#[test]
fn chain_whose_end_is_missing_is_refused() {
    let memory = testing::memory();
    let mut descriptors = chain(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    descriptors.pop();
    let refused = parse(descriptors.into_iter(), &memory, &SHAPE).unwrap_err();
    assert_eq!(refused, Refused { reason: Reason::Cut, status: None });
}

#[test]
fn driver_is_told_of_a_bad_request_where_it_looks_for_the_status() {
    let memory = testing::memory();
    let pieces = [(HEADER, 3, false), (DATA, 9, true), (STATUS, 1, true)];
    let refused = parse(chain(&pieces).into_iter(), &memory, &SHAPE).unwrap_err();
    assert_eq!(refused, Refused { reason: Reason::Header, status: Some(GuestAddress(STATUS)) });
    assert_eq!(refused.answer(), Answer::IoError);
}

#[test]
fn lengths_that_are_no_sectors_are_refused() {
    for len in [0, 1, 511, 513, 1023] {
        let data = [(DATA, len, true)];
        assert_eq!(usual(kind::IN, 0, &data), Err(Reason::Length), "{len}");
        let data = [(DATA, len, false)];
        assert_eq!(usual(kind::OUT, 0, &data), Err(Reason::Length), "{len}");
    }
    assert_eq!(usual(kind::FLUSH, 0, &[(DATA, 512, false)]), Err(Reason::Length));
    assert_eq!(usual(kind::IN, 0, &[(DATA, 512, false), (DATA, 512, true)]), Err(Reason::Length));
    assert_eq!(usual(kind::OUT, 0, &[(DATA, 512, false), (DATA, 512, true)]), Err(Reason::Length));
    assert_eq!(usual(kind::GET_ID, 0, &[(DATA, 19, true)]), Err(Reason::Length));
}

#[test]
fn data_is_bounded_however_it_is_cut() {
    let shape = Shape { sectors: 1 << 40, read_only: false };
    let with = |data: &[Piece]| {
        let pieces = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
        parse_with(kind::IN, 0, &pieces, &shape)
    };
    let most = u32::try_from(MAX_DATA_LEN).unwrap();
    assert!(with(&[(DATA, most, true)]).is_ok());
    assert_eq!(with(&[(DATA, most, true), (DATA, 512, true)]), Err(Reason::Length));
    assert!(with(&vec![(DATA, SIZE_MAX, true); SEG_MAX as usize]).is_ok());
    assert_eq!(with(&vec![(DATA, 512, true); SEG_MAX as usize + 1]), Err(Reason::Descriptors));
}

#[test]
fn nothing_beyond_the_capacity_is_touched() {
    let data = [(DATA, 1024, true)];
    assert!(usual(kind::IN, 998, &data).is_ok());
    for sector in [999, 1000, 1001, 1 << 55, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
        assert_eq!(usual(kind::IN, sector, &data), Err(Reason::Capacity), "{sector}");
        let one = [range(sector, 2, 0)];
        assert_eq!(ranges(kind::DISCARD, &one, &SHAPE), Err(Reason::Capacity), "{sector}");
        assert_eq!(ranges(kind::WRITE_ZEROES, &one, &SHAPE), Err(Reason::Capacity), "{sector}");
    }
    // The last of several counts, too.
    let several = [range(0, 8, 0), range(999, 2, 0)];
    assert_eq!(ranges(kind::DISCARD, &several, &SHAPE), Err(Reason::Capacity));
}

#[test]
fn ranges_are_bounded_and_their_flags_known() {
    let big = Shape { sectors: u64::MAX / 512, read_only: false };
    for (kind, most, most_sectors) in [
        (kind::DISCARD, MAX_DISCARD_SEG, MAX_DISCARD_SECTORS),
        (kind::WRITE_ZEROES, MAX_WRITE_ZEROES_SEG, MAX_WRITE_ZEROES_SECTORS),
    ] {
        let many = |count: u32| vec![range(0, 1, 0); count as usize];
        assert!(ranges(kind, &many(most), &big).is_ok());
        assert_eq!(ranges(kind, &many(most + 1), &big), Err(Reason::Length));
        assert_eq!(ranges(kind, &[], &big), Err(Reason::Length));
        assert_eq!(ranges(kind, &[vec![0; 15]], &big), Err(Reason::Length));
        assert_eq!(ranges(kind, &[range(0, 0, 0)], &big), Err(Reason::Length));
        assert!(ranges(kind, &[range(0, most_sectors, 0)], &big).is_ok());
        assert_eq!(ranges(kind, &[range(0, most_sectors + 1, 0)], &big), Err(Reason::Length));
        assert_eq!(ranges(kind, &[range(0, 1, 2)], &big), Err(Reason::Flags));
    }
    assert_eq!(ranges(kind::DISCARD, &[range(0, 1, FLAG_UNMAP)], &big), Err(Reason::Flags));
    let refused = Refused { reason: Reason::Flags, status: None };
    assert_eq!(refused.answer(), Answer::Unsupported);
}

#[test]
fn read_only_disk_refuses_every_change() {
    let shape = Shape { read_only: true, ..SHAPE };
    let pieces = [(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)];
    assert_eq!(parse_with(kind::OUT, 0, &pieces, &shape), Err(Reason::ReadOnly));
    for kind in [kind::DISCARD, kind::WRITE_ZEROES] {
        assert_eq!(ranges(kind, &[range(0, 1, 0)], &shape), Err(Reason::ReadOnly));
    }
    let pieces = [(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)];
    assert!(parse_with(kind::IN, 0, &pieces, &shape).is_ok());
}

#[test]
fn unknown_types_are_unsupported_whatever_they_carry() {
    for kind in [2, 3, 5, 7, 10, 12, 14, 0xffff_ffff] {
        for data in [&[][..], &[(DATA, 3, true)], &[(DATA, 3, false)]] {
            assert_eq!(usual(kind, 0, data), Err(Reason::Kind), "{kind}");
        }
    }
}

/// Cuts a stretch of memory into descriptors at these places.
fn cut(addr: u64, len: u32, places: &[u32], writable: bool) -> Vec<Piece> {
    let mut places: Vec<u32> = places.iter().map(|place| place % (len + 1)).collect();
    places.extend([0, len]);
    places.sort_unstable();
    places.windows(2).map(|two| (addr + u64::from(two[0]), two[1] - two[0], writable)).collect()
}

/// The same bytes, without the places where they were cut.
fn joined(segments: &[Segment]) -> Option<(u64, u64)> {
    let first = segments.first()?.addr.0;
    let mut end = first;
    for segment in segments {
        assert_eq!(segment.addr.0, end, "a piece is missing or doubled");
        assert!(segment.len > 0);
        end += u64::from(segment.len);
    }
    Some((first, end - first))
}

proptest! {
    /// However a request is cut into descriptors, it is the same request.
    #[test]
    fn cuts_change_nothing(
        writes in any::<bool>(),
        sector in 0..1000u64,
        sectors in 1..40u32,
        readable_cuts in prop::collection::vec(any::<u32>(), 0..20),
        writable_cuts in prop::collection::vec(any::<u32>(), 0..20),
    ) {
        let memory = testing::memory();
        let (kind, out, into) = if writes { (kind::OUT, sectors * 512, 0) }
            else { (kind::IN, 0, sectors * 512) };
        memory.write_slice(&header(kind, sector), GuestAddress(HEADER)).unwrap();
        let mut pieces = cut(HEADER, 16 + out, &readable_cuts, false);
        pieces.extend(cut(DATA, into + 1, &writable_cuts, true));
        let outcome = parse(chain(&pieces).into_iter(), &memory, &SHAPE);
        if sector + u64::from(sectors) > SHAPE.sectors {
            let status = Some(GuestAddress(DATA + u64::from(into)));
            prop_assert_eq!(outcome, Err(Refused { reason: Reason::Capacity, status }));
            return Ok(());
        }
        let request = outcome.unwrap();
        prop_assert_eq!(request.status.0, DATA + u64::from(into));
        let len = u64::from(sectors) * 512;
        prop_assert_eq!(request.operation.bytes(), len);
        match request.operation {
            Operation::Read { offset, data } => {
                prop_assert!(!writes);
                prop_assert_eq!(offset, sector * 512);
                prop_assert_eq!(joined(&data), Some((DATA, len)));
            }
            Operation::Write { offset, data } => {
                prop_assert!(writes);
                prop_assert_eq!(offset, sector * 512);
                prop_assert_eq!(joined(&data), Some((HEADER + 16, len)));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// Whatever the descriptors and the memory say: an answer, and only what is on the disk and in
    /// memory.
    #[test]
    fn anything_is_survived_and_what_is_accepted_is_within_bounds(
        head in prop::collection::vec(any::<u8>(), 0..64),
        plausible in prop::option::of((0..16u32, 0..1100u64)),
        pieces in prop::collection::vec(
            (0..(MEMORY_BYTES as u64 + 4096), prop_oneof![0..64u32, 0..20_000u32, any::<u32>()],
             any::<u16>()),
            0..140,
        ),
        read_only in any::<bool>(),
    ) {
        let memory = testing::memory();
        memory.write_slice(&head, GuestAddress(HEADER)).unwrap();
        let mut pieces = pieces;
        if let Some((kind, sector)) = plausible {
            memory.write_slice(&header(kind, sector), GuestAddress(HEADER)).unwrap();
            pieces.insert(0, (HEADER, 16, NEXT));
        }
        let descriptors: Vec<Descriptor> = pieces.iter()
            .map(|&(addr, len, flags)| Descriptor::new(addr, len, flags, 0))
            .collect();
        let shape = Shape { read_only, ..SHAPE };
        let Ok(request) = parse(descriptors.into_iter(), &memory, &shape) else { return Ok(()) };
        let in_memory = |segment: &Segment| {
            segment.len > 0 && segment.addr.0 + u64::from(segment.len) <= MEMORY_BYTES as u64
        };
        let capacity = shape.sectors * 512;
        let on_disk = |offset: u64, len: u64| len > 0 && offset + len <= capacity;
        prop_assert!(request.status.0 < MEMORY_BYTES as u64);
        let bytes = request.operation.bytes();
        match request.operation {
            Operation::Read { offset, data } | Operation::Write { offset, data } => {
                prop_assert!(on_disk(offset, bytes) && bytes.is_multiple_of(512));
                prop_assert!(data.iter().all(in_memory));
            }
            Operation::Discard { ranges } | Operation::WriteZeroes { ranges } => {
                prop_assert!(!read_only);
                prop_assert!(ranges.iter().all(|range| on_disk(range.offset, range.len)));
            }
            Operation::GetId { data } => prop_assert!(data.iter().all(in_memory)),
            Operation::Flush => {}
        }
    }
}
