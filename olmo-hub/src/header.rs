//! The header of a safetensors file, read once and checked whole.
//!
//! A file is the length of the header in eight little-endian bytes, the header in JSON, and the
//! tensors' bytes without gaps. Format: <https://huggingface.co/docs/safetensors>. We parse it
//! ourselves, and not with the `safetensors` crate, for three things it does not do: report
//! every problem at once, notice a name given twice, and read without a memory map (a map of a
//! file that is cut short under the reader ends the process).

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::dtype::Dtype;
use crate::tensor_file::TensorSpec;

/// The largest header that is read, in bytes: 40 times that of the 3219 tensors of OLMoE. The reference
/// implementation takes 100 MB, of which a hostile one would make several times that in memory.
const MAX_HEADER: u64 = 1 << 24;

/// The key of a header that is not a tensor.
const METADATA: &str = "__metadata__";

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Header {
    /// The tensors, in the order of their bytes.
    pub(crate) entries: Vec<Entry>,
    /// Notes of whoever wrote the file.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// As in the header; other formats than [`Dtype`]'s occur.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Offset of the first byte in the file.
    pub(crate) start: u64,
}

impl Entry {
    /// Elements of the tensor.
    pub(crate) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Why a header cannot be used.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Io(io::Error),
    Problems(Vec<String>),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Header {
    /// Reads and checks the header of a file.
    pub(crate) fn read(mut file: &File) -> Result<Self, HeaderError> {
        let length = file.metadata()?.len();
        let mut prefix = [0; 8];
        if length < 8 {
            return one(format!("it has {length} bytes, expected at least 8"));
        }
        file.read_exact(&mut prefix)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER {
            return one(format!(
                "its header would have {header_length} bytes, expected at most {MAX_HEADER}"
            ));
        }
        let Some(data_length) = (length - 8).checked_sub(header_length) else {
            return one(format!("it has {length} bytes and its header alone {header_length}"));
        };
        let mut text = vec![0; header_length as usize];
        file.read_exact(&mut text)?;
        match serde_json::from_slice::<RawHeader>(&text) {
            Ok(raw) => raw.check(8 + header_length, data_length),
            Err(error) => one(format!("its header is not the JSON that was expected: {error}")),
        }
    }
}

/// The first bytes of a file that holds these tensors in this order, up to their data.
///
/// Names must differ, which [`find_duplicate`] checks.
pub(crate) fn header_bytes(tensors: &[TensorSpec], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let notes: BTreeMap<_, _> = metadata.iter().copied().collect();
        header.insert(METADATA.to_owned(), json!(notes));
    }
    let mut offset = 0;
    for TensorSpec { name, dtype, shape } in tensors {
        let end = offset + dtype.size() * shape.iter().product::<usize>();
        let entry = json!({
            "dtype": dtype.safetensors_name(),
            "shape": shape,
            "data_offsets": [offset, end],
        });
        header.insert(name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    // Data begins at a multiple of eight bytes, so that whoever maps the file finds it aligned.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// The first name that a header cannot hold, because it was there before or is reserved.
pub(crate) fn find_duplicate(tensors: &[TensorSpec]) -> Option<&str> {
    let mut seen = HashSet::from([METADATA]);
    tensors.iter().map(|tensor| tensor.name.as_str()).find(|name| !seen.insert(name))
}

fn one<T>(problem: String) -> Result<T, HeaderError> {
    Err(HeaderError::Problems(vec![problem]))
}

/// A header as it stands in the file, nothing checked but its form.
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawHeader {
    fn check(mut self, data_start: u64, data_length: u64) -> Result<Header, HeaderError> {
        let mut problems = Vec::new();
        self.tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut names = HashSet::new();
        let mut end = 0;
        for (name, entry) in &self.tensors {
            if !names.insert(name.as_str()) {
                problems.push(format!("{name} is there twice"));
            }
            entry.check(name, end, &mut problems);
            end = end.max(entry.data_offsets[1]);
        }
        if end > data_length {
            problems.push(format!(
                "it has {data_length} bytes of tensors where its header says {end}: the file is \
                 cut short"
            ));
        } else if end < data_length {
            problems.push(format!("{} bytes follow its last tensor", data_length - end));
        }
        if !problems.is_empty() {
            return Err(HeaderError::Problems(problems));
        }
        let entries = self.tensors.into_iter().map(|(name, raw)| raw.entry(name, data_start));
        Ok(Header { entries: entries.collect(), metadata: self.metadata })
    }
}

impl RawEntry {
    /// `previous` is where the bytes of the tensor before end.
    fn check(&self, name: &str, previous: u64, problems: &mut Vec<String>) {
        let [start, end] = self.data_offsets;
        if start != previous {
            problems
                .push(format!("{name} begins at byte {start} of the data, expected {previous}"));
        }
        let Some(size) = end.checked_sub(start) else {
            problems.push(format!("{name} ends at byte {end}, before it begins at {start}"));
            return;
        };
        let elements = self.shape.iter().try_fold(1_u64, |n, &size| n.checked_mul(size));
        let Some(elements) = elements else {
            problems.push(format!("{name} has shape {:?}, too large for any file", self.shape));
            return;
        };
        let Some(element_size) = element_size(&self.dtype) else { return };
        if elements.checked_mul(element_size) != Some(size) {
            problems.push(format!(
                "{name} has {size} bytes, which is not {} of shape {:?}",
                self.dtype, self.shape
            ));
        }
    }

    fn entry(self, name: String, data_start: u64) -> Entry {
        let shape = self.shape.into_iter().map(|size| size as usize).collect();
        let start = data_start + self.data_offsets[0];
        Entry { name, dtype: self.dtype, shape, start }
    }
}

/// Bytes of one element, `None` for formats that are not whole bytes or that we do not know.
fn element_size(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "U16" | "I16" => Some(2),
        "U32" | "I32" => Some(4),
        "U64" | "I64" | "F64" | "C64" => Some(8),
        _ => Dtype::from_safetensors_name(dtype).map(|dtype| dtype.size() as u64),
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;

        // A map would keep only the last of two entries of one name.
        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA {
                        tensors.push((name, map.next_value()?));
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(METADATA));
                    }
                }
                Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
            }
        }

        deserializer.deserialize_map(Tensors)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Reads a file of this header text and this many bytes of data.
    fn read(header: &str, data_length: usize) -> Result<Header, HeaderError> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data_length, 0);
        read_bytes(&bytes)
    }

    fn read_bytes(bytes: &[u8]) -> Result<Header, HeaderError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Header::read(&file.reopen().unwrap())
    }

    fn problems(header: &str, data_length: usize) -> Vec<String> {
        match read(header, data_length) {
            Err(HeaderError::Problems(problems)) => problems,
            other => panic!("expected problems, found {other:?}"),
        }
    }

    fn entry(name: &str, dtype: &str, shape: &str, offsets: [u64; 2]) -> String {
        let [start, end] = offsets;
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    }

    #[test]
    fn every_problem_of_a_header_is_reported_at_once() {
        let header = format!(
            "{{{},{},{},{}}}",
            entry("a", "F32", "[2]", [0, 8]),
            entry("a", "F16", "[2]", [4, 8]),
            entry("b", "BF16", "[3]", [10, 16]),
            entry("c", "F32", "[4294967296,4294967296,4294967296]", [16, 9]),
        );
        assert_eq!(
            problems(&header, 10),
            [
                "a is there twice",
                "a begins at byte 4 of the data, expected 8",
                "b begins at byte 10 of the data, expected 8",
                "c ends at byte 9, before it begins at 16",
                "it has 10 bytes of tensors where its header says 16: the file is cut short",
            ]
        );
    }

    #[test]
    fn hostile_headers_are_refused() {
        let huge = entry("a", "F32", "[9223372036854775807,9223372036854775807]", [0, 4]);
        assert!(problems(&format!("{{{huge}}}"), 4)[0].contains("too large for any file"));
        let wraps = entry("a", "F32", "[4611686018427387905]", [0, 4]);
        assert!(problems(&format!("{{{wraps}}}"), 4)[0].contains("is not F32 of shape"));
        assert!(problems("{}", 3)[0].contains("3 bytes follow"));
        for text in ["", "[]", "{", "null", "\"\"", "{\"a\":1}", "{\"a\":{}}"] {
            assert!(problems(text, 0)[0].contains("not the JSON"), "{text}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(problems(&deep, 0)[0].contains("not the JSON"));
    }

    #[test]
    fn a_header_of_a_terabyte_is_refused_without_allocating_it() {
        let mut bytes = (1_u64 << 40).to_le_bytes().to_vec();
        bytes.extend(b"{}");
        for (length, expected) in [(10, "at most 16777216"), (7, "at least 8"), (0, "at least 8")] {
            let Err(HeaderError::Problems(problems)) = read_bytes(&bytes[..length]) else {
                panic!("{length} bytes were accepted")
            };
            assert!(problems[0].contains(expected), "{problems:?}");
        }
        bytes[..8].copy_from_slice(&3_u64.to_le_bytes());
        assert!(matches!(read_bytes(&bytes), Err(HeaderError::Problems(_))));
        bytes[..8].copy_from_slice(&2_u64.to_le_bytes());
        assert!(read_bytes(&bytes).unwrap().entries.is_empty());
    }

    #[test]
    fn what_we_write_is_what_we_read() {
        let spec = |name: &str, dtype, shape: &[usize]| TensorSpec {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        };
        let tensors = [
            spec("z", Dtype::Bf16, &[3]),
            spec("a \"quoted\" é", Dtype::F32, &[2, 0]),
            spec("m", Dtype::F32, &[2, 2]),
        ];
        let mut bytes = header_bytes(&tensors, &[("format", "pt")]);
        assert_eq!(bytes.len() % 8, 0);
        let data_start = bytes.len() as u64;
        bytes.resize(bytes.len() + 22, 0);
        let header = read_bytes(&bytes).unwrap();
        assert_eq!(header.metadata["format"], "pt");
        let found: Vec<_> =
            header.entries.iter().map(|e| (e.name.as_str(), e.start - data_start)).collect();
        assert_eq!(found, [("z", 0), ("a \"quoted\" é", 6), ("m", 6)]);
        assert_eq!(header.entries[2].n_elements(), 4);
        assert_eq!(find_duplicate(&tensors), None);
        assert_eq!(find_duplicate(&[tensors[0].clone(), tensors[0].clone()]), Some("z"));
        assert_eq!(find_duplicate(&[spec(METADATA, Dtype::F32, &[])]), Some(METADATA));
    }
}
