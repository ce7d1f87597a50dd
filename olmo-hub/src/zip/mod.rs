//! The zip archives of torch: where each member's bytes stand in the file.
//!
//! torch stores members as they are, so that a tensor can be read straight from the file, and that
//! is all that is read here: a member that is compressed, encrypted or overlaps another is refused
//! by name, and with it every zip bomb. Format: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3.

mod write;

use std::fs::File;
use std::io;

pub(crate) use write::ZipWriter;

use crate::values::read_exact_at;

/// The most members that are read; a checkpoint has one a tensor and a few more.
const MAX_MEMBERS: u64 = 1 << 17;
/// The most bytes of the list of members.
const MAX_DIRECTORY: u64 = 1 << 24;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const MEMBER: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";

const END_SIZE: usize = 22;
const LOCATOR_SIZE: usize = 20;
const END_64_SIZE: usize = 56;
const MEMBER_SIZE: usize = 46;
const LOCAL_SIZE: usize = 30;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Offset of its first byte in the file.
    pub(crate) start: u64,
    pub(crate) n_bytes: u64,
}

/// Why an archive cannot be read.
#[derive(Debug)]
pub(crate) enum ZipError {
    Io(io::Error),
    Problem(String),
}

impl From<io::Error> for ZipError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Lists the members of the archive that is `length` bytes of a file from `base` on.
pub(crate) fn members(file: &File, base: u64, length: u64) -> Result<Vec<Member>, ZipError> {
    let archive = Archive { file, base, length };
    let directory = archive.directory()?;
    let bytes = archive.read(directory.start, directory.n_bytes as usize)?;
    let mut rest = bytes.as_slice();
    let mut members = Vec::new();
    for _ in 0..directory.n_members {
        let (raw, after) = RawMember::parse(rest)?;
        rest = after;
        members.push(archive.locate(raw, directory.start)?);
    }
    if !rest.is_empty() {
        return problem(format!("{} bytes follow its list of members", rest.len()));
    }
    check_overlap(&members)?;
    Ok(members)
}

fn problem<T>(text: impl Into<String>) -> Result<T, ZipError> {
    Err(ZipError::Problem(text.into()))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes[at..].first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

struct Archive<'a> {
    file: &'a File,
    base: u64,
    length: u64,
}

/// Where the list of members stands.
struct Directory {
    start: u64,
    n_bytes: u64,
    n_members: u64,
}

impl Archive<'_> {
    fn read(&self, start: u64, n_bytes: usize) -> Result<Vec<u8>, ZipError> {
        if start.checked_add(n_bytes as u64).is_none_or(|end| end > self.length) {
            return problem("it is cut short");
        }
        let mut bytes = vec![0; n_bytes];
        read_exact_at(self.file, &mut bytes, self.base + start)?;
        Ok(bytes)
    }

    fn directory(&self) -> Result<Directory, ZipError> {
        // A comment, which may come after the end record, has 65535 bytes at most.
        let n_tail = self.length.min((END_SIZE + usize::from(u16::MAX)) as u64);
        let tail_start = self.length - n_tail;
        let tail = self.read(tail_start, n_tail as usize)?;
        let is_end = |at: &usize| {
            tail[*at..].starts_with(&END)
                && at + END_SIZE + usize::from(u16_at(&tail, at + 20)) == tail.len()
        };
        let last = tail.len().checked_sub(END_SIZE);
        let Some(at) = last.and_then(|last| (0..=last).rev().find(is_end)) else {
            return problem("it is no zip archive, or one that is cut short");
        };
        let mut directory = Directory {
            start: u32_at(&tail, at + 16).into(),
            n_bytes: u32_at(&tail, at + 12).into(),
            n_members: u16_at(&tail, at + 10).into(),
        };
        let end = tail_start + at as u64;
        let locator = end.checked_sub(LOCATOR_SIZE as u64);
        if let Some(start) = locator {
            let locator = self.read(start, LOCATOR_SIZE)?;
            if locator.starts_with(&LOCATOR_64) {
                let record = self.read(u64_at(&locator, 8), END_64_SIZE)?;
                if !record.starts_with(&END_64) {
                    return problem("its 64-bit end record is not where it should be");
                }
                directory = Directory {
                    start: u64_at(&record, 48),
                    n_bytes: u64_at(&record, 40),
                    n_members: u64_at(&record, 32),
                };
            }
        }
        directory.check(end)
    }

    /// Finds the bytes of a member, which begin after a header of their own.
    fn locate(&self, raw: RawMember, directory_start: u64) -> Result<Member, ZipError> {
        let RawMember { name, flags, method, n_stored, n_bytes, header } = raw;
        let shown = name.escape_debug().to_string();
        if flags & 1 != 0 {
            return problem(format!("{shown} is encrypted, which is not read"));
        }
        if method != 0 || n_stored != n_bytes {
            return problem(format!(
                "{shown} is compressed from {n_bytes} to {n_stored} bytes (method {method}); torch \
                 stores members as they are, and only such are read"
            ));
        }
        let local = self.read(header, LOCAL_SIZE)?;
        if !local.starts_with(&LOCAL) {
            return problem(format!("{shown} is not where the list of members places it"));
        }
        let n_names = u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        let start = header + LOCAL_SIZE as u64 + n_names;
        if start.checked_add(n_bytes).is_none_or(|end| end > directory_start) {
            return problem(format!("{shown} would end after the list of members begins"));
        }
        Ok(Member { name, start: self.base + start, n_bytes })
    }
}

impl Directory {
    fn check(self, end: u64) -> Result<Self, ZipError> {
        let Self { start, n_bytes, n_members } = self;
        if n_members > MAX_MEMBERS || n_bytes > MAX_DIRECTORY {
            return problem(format!(
                "it would have {n_members} members listed in {n_bytes} bytes, expected at most \
                 {MAX_MEMBERS} in {MAX_DIRECTORY}"
            ));
        }
        if start.checked_add(n_bytes).is_none_or(|last| last > end) {
            return problem("its list of members is cut short");
        }
        Ok(self)
    }
}

/// A member as the list has it.
struct RawMember {
    name: String,
    flags: u16,
    method: u16,
    n_stored: u64,
    n_bytes: u64,
    /// Offset of its own header.
    header: u64,
}

impl RawMember {
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ZipError> {
        let cut = || ZipError::Problem("its list of members is cut short".to_owned());
        let fixed = bytes.get(..MEMBER_SIZE).filter(|fixed| fixed.starts_with(&MEMBER));
        let fixed = fixed.ok_or_else(cut)?;
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let rest = &bytes[MEMBER_SIZE..];
        let (names, after) = rest.split_at_checked(name + extra + comment).ok_or_else(cut)?;
        let (name, extra) = (&names[..name], &names[name..name + extra]);
        let name = str::from_utf8(name);
        let name = name.map_err(|_| ZipError::Problem("a member's name is no UTF-8".to_owned()))?;
        let mut member = Self {
            name: name.to_owned(),
            flags: u16_at(fixed, 8),
            method: u16_at(fixed, 10),
            n_stored: u32_at(fixed, 20).into(),
            n_bytes: u32_at(fixed, 24).into(),
            header: u32_at(fixed, 42).into(),
        };
        member.widen(extra);
        Ok((member, after))
    }

    /// Takes what does not fit 32 bits from the extra field 1, where it stands in this order.
    fn widen(&mut self, mut extra: &[u8]) {
        while extra.len() >= 4 {
            let (kind, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
            let Some((field, after)) = extra[4..].split_at_checked(length) else { return };
            extra = after;
            if kind != 1 {
                continue;
            }
            let (mut wide, _) = field.as_chunks::<8>();
            for value in [&mut self.n_bytes, &mut self.n_stored, &mut self.header] {
                if *value == u64::from(u32::MAX)
                    && let Some((first, others)) = wide.split_first()
                {
                    *value = u64::from_le_bytes(*first);
                    wide = others;
                }
            }
        }
    }
}

/// Two members that share bytes would let a small file claim to be a large one.
fn check_overlap(members: &[Member]) -> Result<(), ZipError> {
    let mut ordered: Vec<&Member> = members.iter().filter(|member| member.n_bytes > 0).collect();
    ordered.sort_by_key(|member| member.start);
    for pair in ordered.windows(2) {
        if pair[0].start + pair[0].n_bytes > pair[1].start {
            let [first, second] = [pair[0], pair[1]].map(|m| m.name.escape_debug().to_string());
            return problem(format!("{first} and {second} share bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn archive(contents: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = ZipWriter::default();
        for (name, content) in contents {
            let mut put = |part: &[u8]| -> Result<(), io::Error> {
                bytes.extend_from_slice(part);
                Ok(())
            };
            writer.begin(name, content.len() as u64, 64, &mut put).unwrap();
            writer.put(content, &mut put).unwrap();
            writer.end(&mut put).unwrap();
        }
        let mut put = |part: &[u8]| -> Result<(), io::Error> {
            bytes.extend_from_slice(part);
            Ok(())
        };
        writer.finish(&mut put).unwrap();
        bytes
    }

    fn list(bytes: &[u8]) -> Result<Vec<Member>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let file = file.reopen().unwrap();
        members(&file, 0, bytes.len() as u64).map_err(|error| match error {
            ZipError::Problem(text) => text,
            ZipError::Io(error) => panic!("{error}"),
        })
    }

    #[test]
    fn what_is_written_is_found_and_aligned() {
        let bytes = archive(&[("m/data.pkl", b"pickle"), ("m/empty", b""), ("m/data/0", &[7; 99])]);
        let members = list(&bytes).unwrap();
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["m/data.pkl", "m/empty", "m/data/0"]);
        for (member, content) in members.iter().zip([&b"pickle"[..], b"", &[7; 99]]) {
            assert_eq!(member.start % 64, 0);
            let start = member.start as usize;
            assert_eq!(&bytes[start..start + member.n_bytes as usize], content);
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = archive(&[("m/data.pkl", b"pickle"), ("m/data/0", &[7; 99])]);
        for end in 0..bytes.len() {
            assert!(list(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn bombs_are_refused_by_name() {
        let bytes = archive(&[("m/data.pkl", b"pickle"), ("m/data/0", &[7; 99])]);
        let directory = bytes.windows(4).position(|window| window == MEMBER).unwrap();
        let changed = |at: usize, value: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[directory + at..directory + at + value.len()].copy_from_slice(value);
            list(&bytes).unwrap_err()
        };
        let compressed = changed(10, &[8]);
        assert!(compressed.contains("m/data.pkl is compressed"), "{compressed}");
        assert!(changed(8, &[9]).contains("m/data.pkl is encrypted"));
        assert!(changed(24, &u32::MAX.to_le_bytes()).contains("m/data.pkl"));
        let second = directory + MEMBER_SIZE + "m/data.pkl".len();
        let mut overlapping = bytes.clone();
        overlapping[second + 42..second + 46].copy_from_slice(&0_u32.to_le_bytes());
        let error = list(&overlapping).unwrap_err();
        assert!(error.contains("m/data.pkl") && error.contains("m/data/0"), "{error}");
        let mut many = bytes.clone();
        let end = many.len() - END_SIZE;
        many[end + 12..end + 16].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = list(&many).unwrap_err();
        assert!(error.contains("at most"), "{error}");
    }
}
