//! Zip archives as torch writes them, front to back without going back.

use super::{END, END_64, LOCAL, LOCATOR_64, MEMBER};

/// Sizes from here on need 64 bits.
const WIDE: u64 = u32::MAX as u64;

/// What follows a member's bytes.
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
/// Checksum and sizes follow the bytes; names are UTF-8.
const FLAGS: u16 = 0x0808;
/// The version of the format that has 64-bit sizes.
const VERSION: u16 = 45;
/// The first of January 1980, midnight: what is written depends on the content alone.
const TIME_AND_DATE: u32 = 0x0021_0000;
/// torch's own kind of extra field, which fills up to where the bytes begin.
const PADDING: [u8; 2] = *b"FB";

/// Writes an archive through a function that appends bytes.
#[derive(Debug, Default)]
pub(crate) struct ZipWriter {
    members: Vec<Written>,
    at: u64,
    checksum: crc32fast::Hasher,
}

#[derive(Debug)]
struct Written {
    name: String,
    n_bytes: u64,
    checksum: u32,
    header: u64,
}

impl ZipWriter {
    /// Begins a member of `n_bytes`, whose bytes begin at a multiple of `alignment`.
    pub(crate) fn begin<E>(
        &mut self,
        name: &str,
        n_bytes: u64,
        alignment: u64,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let header = self.at;
        let mut extra = Vec::new();
        if n_bytes >= WIDE {
            extra.extend([1, 0, 16, 0]);
            extra.extend([n_bytes.to_le_bytes(), n_bytes.to_le_bytes()].concat());
        }
        let without = header + (30 + name.len() + extra.len() + 4) as u64;
        let padding = (without.next_multiple_of(alignment) - without) as u16;
        extra.extend(PADDING);
        extra.extend(padding.to_le_bytes());
        extra.resize(extra.len() + usize::from(padding), b'Z');
        let narrow = n_bytes.min(WIDE) as u32;
        let mut bytes = LOCAL.to_vec();
        bytes.extend([VERSION, FLAGS, 0].map(u16::to_le_bytes).concat());
        bytes.extend([TIME_AND_DATE, 0, narrow, narrow].map(u32::to_le_bytes).concat());
        bytes.extend([name.len() as u16, extra.len() as u16].map(u16::to_le_bytes).concat());
        bytes.extend(name.as_bytes());
        bytes.extend(extra);
        self.at += bytes.len() as u64;
        self.checksum = crc32fast::Hasher::new();
        self.members.push(Written { name: name.to_owned(), n_bytes, checksum: 0, header });
        put(&bytes)
    }

    /// Adds bytes to the member that was begun.
    pub(crate) fn put<E>(
        &mut self,
        bytes: &[u8],
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.checksum.update(bytes);
        self.at += bytes.len() as u64;
        put(bytes)
    }

    /// Ends the member that was begun.
    pub(crate) fn end<E>(&mut self, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let checksum = self.checksum.clone().finalize();
        let Some(member) = self.members.last_mut() else { return Ok(()) };
        member.checksum = checksum;
        let mut bytes = DESCRIPTOR.to_vec();
        bytes.extend(checksum.to_le_bytes());
        let n_bytes = member.n_bytes;
        if n_bytes >= WIDE {
            bytes.extend([n_bytes, n_bytes].map(u64::to_le_bytes).concat());
        } else {
            bytes.extend([n_bytes as u32, n_bytes as u32].map(u32::to_le_bytes).concat());
        }
        self.at += bytes.len() as u64;
        put(&bytes)
    }

    /// Writes the list of members.
    pub(crate) fn finish<E>(self, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut bytes: Vec<u8> = self.members.iter().flat_map(Written::listed).collect();
        let (start, n_bytes) = (self.at, bytes.len() as u64);
        let n_members = self.members.len() as u64;
        let end_64 = start + n_bytes;
        if start >= WIDE || n_members >= u64::from(u16::MAX) {
            bytes.extend(END_64);
            bytes.extend(44_u64.to_le_bytes());
            bytes.extend([VERSION, VERSION].map(u16::to_le_bytes).concat());
            bytes.extend([0_u32, 0].map(u32::to_le_bytes).concat());
            bytes.extend([n_members, n_members, n_bytes, start].map(u64::to_le_bytes).concat());
            bytes.extend(LOCATOR_64);
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(end_64.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
        }
        let count = n_members.min(u64::from(u16::MAX)) as u16;
        bytes.extend(END);
        bytes.extend([0, 0, count, count].map(u16::to_le_bytes).concat());
        bytes.extend(
            [n_bytes.min(WIDE) as u32, start.min(WIDE) as u32].map(u32::to_le_bytes).concat(),
        );
        bytes.extend([0; 2]);
        put(&bytes)
    }
}

impl Written {
    /// The member's line in the list.
    fn listed(&self) -> Vec<u8> {
        let mut wide = Vec::new();
        let mut narrow = |value: u64, times: usize| {
            if value < WIDE {
                return value as u32;
            }
            for _ in 0..times {
                wide.extend(value.to_le_bytes());
            }
            u32::MAX
        };
        let size = narrow(self.n_bytes, 2);
        let header = narrow(self.header, 1);
        let mut extra = Vec::new();
        if !wide.is_empty() {
            extra.extend([1, 0]);
            extra.extend((wide.len() as u16).to_le_bytes());
            extra.append(&mut wide);
        }
        let mut bytes = MEMBER.to_vec();
        bytes.extend([VERSION, VERSION, FLAGS, 0].map(u16::to_le_bytes).concat());
        bytes.extend([TIME_AND_DATE, self.checksum, size, size].map(u32::to_le_bytes).concat());
        bytes.extend([self.name.len() as u16, extra.len() as u16].map(u16::to_le_bytes).concat());
        bytes.extend([0; 10]);
        bytes.extend(header.to_le_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.extend(extra);
        bytes
    }
}
