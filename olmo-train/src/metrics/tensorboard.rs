//! TensorBoard event files: each metric as a scalar.
//!
//! A file is a row of TFRecords (length, its checksum, content, its checksum; little-endian, CRC-32C
//! turned and shifted as TensorFlow does), the contents `Event` protobufs of the few fields that a
//! scalar needs (`tensorboard/compat/proto/event.proto`, `summary.proto`). Each start of a run begins
//! a file whose second event says from which step on it counts, so that TensorBoard drops the steps
//! that an interrupted run had made beyond.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes the scalars of a run.
#[derive(Debug)]
pub struct TensorBoard {
    file: File,
}

impl TensorBoard {
    /// Begins a file in a folder, which is made, for steps after `last_step`.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn create(folder: &Path, last_step: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let seconds = since_epoch() as u64;
        // Readers take the files in the order of their names.
        let name = |n: u32| format!("events.out.tfevents.{seconds:010}.olmo.{}.{n}", process::id());
        let mut n = 0;
        let file = loop {
            match OpenOptions::new().append(true).create_new(true).open(folder.join(name(n))) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => n += 1,
                opened => break opened?,
            }
        };
        let mut board = Self { file };
        board.put(0, |event| bytes_field(event, 3, b"brain.Event:2"))?;
        // `session_log { status: START }`
        board.put(last_step + 1, |event| bytes_field(event, 7, &[0x08, 0x01]))?;
        Ok(board)
    }

    /// Appends the scalars of a step.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn append<'a>(
        &mut self,
        step: u64,
        scalars: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> io::Result<()> {
        let mut summary = Vec::new();
        for (name, value) in scalars {
            let mut scalar = Vec::new();
            bytes_field(&mut scalar, 1, name.as_bytes());
            scalar.push(field(2, 5));
            scalar.extend((value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &scalar);
        }
        self.put(step, |event| bytes_field(event, 5, &summary))
    }

    fn put(&mut self, step: u64, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut event = vec![field(1, 1)];
        event.extend(since_epoch().to_le_bytes());
        event.push(field(2, 0));
        varint(&mut event, step);
        fill(&mut event);
        self.file.write_all(&record(&event))
    }
}

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(content);
    record.extend(masked(crc32c(content)).to_le_bytes());
    record
}

/// The tag of a protobuf field: its number and wire type, of which both fit a byte.
fn field(number: u8, wire_type: u8) -> u8 {
    number << 3 | wire_type
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn bytes_field(into: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    into.push(field(number, 2));
    varint(into, bytes.len() as u64);
    into.extend(bytes);
}

/// TensorFlow's disguise of a checksum, so that the checksum of data with checksums is another.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of the catalogue of CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn numbers_have_seven_bits_a_byte() {
        let mut bytes = Vec::new();
        for value in [0, 127, 128, 300] {
            varint(&mut bytes, value);
        }
        assert_eq!(bytes, [0, 127, 0x80, 1, 0xAC, 2]);
    }

    #[test]
    fn a_file_is_whole_records() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut board = TensorBoard::create(folder.path(), 0).expect("writable");
        board.append(300, [("train/CrossEntropyLoss", 1.5), ("x", f64::NAN)]).expect("writable");
        TensorBoard::create(folder.path(), 300).expect("a second file");
        let mut paths: Vec<_> = fs::read_dir(folder.path())
            .expect("there")
            .map(|e| e.expect("listed").path())
            .collect();
        paths.sort();
        assert_eq!(paths.len(), 2);
        let bytes = fs::read(&paths[0]).expect("readable");
        let (mut at, mut contents) = (0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight")) as usize;
            let content = &bytes[at + 12..at + 12 + length];
            assert_eq!(&bytes[at..at + 16 + length], record(content), "record at {at}");
            contents.push(content.to_vec());
            at += 16 + length;
        }
        assert_eq!(contents.len(), 3);
        assert!(contents[0].ends_with(b"brain.Event:2"));
        // Step 300, then a summary with a value whose tag is the name and whose number is 1.5.
        assert_eq!(contents[2][9..12], [0x10, 0xAC, 2]);
        let name = b"train/CrossEntropyLoss";
        let at = contents[2].windows(name.len()).position(|part| part == name).expect("named");
        let value = &contents[2][at + name.len()..][..5];
        assert_eq!(value, [0x15, 0, 0, 0xC0, 0x3F]);
    }
}
