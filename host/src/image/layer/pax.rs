//! The records of a pax extended header that matter to an image. Knows no stream.
//!
//! Source: POSIX.1-2017 `pax`, "pax Extended Header"; GNU tar manual, "Storing Sparse Files";
//! `SCHILY.xattr.*` as star, Go and GNU tar write it.

use super::tar::{Piece, TarError, bad};
use crate::image::tree::Timestamp;

/// What a pax header says in place of the entry's own header.
#[derive(Default)]
pub struct Overrides {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's sparse files in pax form, all three versions.
#[derive(Default)]
pub struct Sparse {
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub pieces: Vec<Piece>,
    /// Version 1.0: the map stands in front of the data.
    pub map_in_data: bool,
    has_map: bool,
    /// Version 0.0: an offset whose length has not come yet.
    offset: Option<u64>,
}

impl Sparse {
    /// Whether the entry is sparse.
    pub fn is_present(&self) -> bool {
        self.map_in_data || self.has_map
    }
}

/// Reads the records `<length> <key>=<value>\n`. An empty value takes an override back.
pub fn parse(mut records: &[u8]) -> Result<Overrides, TarError> {
    let mut overrides = Overrides::default();
    while !records.is_empty() {
        // Some archivers fill the rest of the block with NULs.
        if records.iter().all(|byte| *byte == 0) {
            break;
        }
        let (record, rest) = split_record(records).ok_or(bad("pax record"))?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(bad("pax record"))?;
        overrides.set(&record[..equals], &record[equals + 1..])?;
        records = rest;
    }
    Ok(overrides)
}

/// The first record without length and newline, and what comes after it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..blank])?).ok()?;
    let record = records.get(..length)?.get(blank + 1..)?;
    let record = record.strip_suffix(b"\n")?;
    Some((record, &records[length..]))
}

impl Overrides {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number(value, "pax size")?,
            b"uid" => self.uid = id(value, "pax uid")?,
            b"gid" => self.gid = id(value, "pax gid")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(timestamp(value).ok_or(bad("pax mtime"))?),
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = number(value, "GNU.sparse.realsize")?;
            }
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.map" => self.sparse.set_map(value)?,
            b"GNU.sparse.offset" => {
                self.sparse.has_map = true;
                self.sparse.offset = number(value, "GNU.sparse.offset")?;
            }
            b"GNU.sparse.numbytes" => {
                let length = number(value, "GNU.sparse.numbytes")?;
                let piece = self.sparse.offset.take().zip(length);
                self.sparse.pieces.push(piece.ok_or(bad("GNU.sparse.numbytes"))?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    /// Version 0.1: `offset,length,offset,length,...`.
    fn set_map(&mut self, value: &[u8]) -> Result<(), TarError> {
        self.has_map = true;
        self.pieces.clear();
        if value.is_empty() {
            return Ok(());
        }
        let mut numbers = value.split(|byte| *byte == b',').map(decimal);
        while let Some(offset) = numbers.next() {
            let piece = offset.zip(numbers.next().flatten());
            self.pieces.push(piece.ok_or(bad("GNU.sparse.map"))?);
        }
        Ok(())
    }
}

fn number(value: &[u8], field: &'static str) -> Result<Option<u64>, TarError> {
    if value.is_empty() {
        return Ok(None);
    }
    decimal(value).map(Some).ok_or(bad(field))
}

fn id(value: &[u8], field: &'static str) -> Result<Option<u32>, TarError> {
    let id = number(value, field)?;
    id.map(|id| u32::try_from(id).map_err(|_| bad(field))).transpose()
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// `[-]seconds[.fraction]`; digits below the nanosecond are cut off.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos: 0 },
        (true, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> String {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        format!("{length} {key}={value}\n")
    }

    #[test]
    fn records_override_fields() {
        let text = [
            record("path", "a/b"),
            record("uid", "4000000000"),
            record("mtime", "12.000000345678"),
            record("SCHILY.xattr.user.x", "a=b\nc"),
            record("comment", "nothing"),
        ]
        .concat();
        let pax = parse(text.as_bytes()).unwrap();
        assert_eq!(pax.path.unwrap(), b"a/b");
        assert_eq!(pax.uid, Some(4_000_000_000));
        assert_eq!(pax.mtime, Some(Timestamp { secs: 12, nanos: 345 }));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"a=b\nc".to_vec())]);
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(timestamp(b"-1.5"), Some(Timestamp { secs: -2, nanos: 500_000_000 }));
        assert_eq!(timestamp(b"-7"), Some(Timestamp { secs: -7, nanos: 0 }));
        assert_eq!(timestamp(b"1.x"), None);
        assert_eq!(timestamp(b"99999999999999999999"), None);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bad in
            ["x", "5 a=b\n", "99 a=b\n", "6 a=bb", "3 \n", "18446744073709551615 a=b\n", "6 abc\n"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(record("uid", "4294967296").as_bytes()).is_err());
        assert!(parse(record("GNU.sparse.map", "1,2,3").as_bytes()).is_err());
    }
}
