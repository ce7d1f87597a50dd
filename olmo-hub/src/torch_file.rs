//! Files that `torch.save` wrote: a pickle of tensors by name, and their bytes, in one archive.
//!
//! Nothing is unpickled: [`pickle`](crate::pickle) gives plain values, of which only dictionaries
//! of tensors make sense here, and every tensor becomes a place in the file. Layout:
//! `torch/serialization.py` of torch 2.9, since 1.6; older files are refused.

use std::collections::HashMap;
use std::fs::File;

use crate::dtype::Dtype;
use crate::header::{Entry, HeaderError};
use crate::pickle::{Global, Id, MAX_BYTES, MAX_LIST_BYTES, Node, ORDERED_DICT, Pickle, Writer};
use crate::values::read_exact_at;
use crate::zip::{self, Member, ZipError};

/// What a file of tensors may name.
const GLOBALS: &[Global] = &[
    ORDERED_DICT,
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "FloatStorage"),
    ("torch", "HalfStorage"),
    ("torch", "BFloat16Storage"),
    ("torch", "DoubleStorage"),
    ("torch", "LongStorage"),
    ("torch", "IntStorage"),
    ("torch", "ShortStorage"),
    ("torch", "CharStorage"),
    ("torch", "ByteStorage"),
    ("torch", "BoolStorage"),
];

const REBUILD_TENSOR: usize = 1;
const REBUILD_PARAMETER: usize = 2;

/// The dtype of a storage by its index in [`GLOBALS`], as safetensors names it, and its size.
const STORAGES: &[(usize, &str, u64)] = &[
    (3, "F32", 4),
    (4, "F16", 2),
    (5, "BF16", 2),
    (6, "F64", 8),
    (7, "I64", 8),
    (8, "I32", 4),
    (9, "I16", 2),
    (10, "I8", 1),
    (11, "U8", 1),
    (12, "BOOL", 1),
];

/// Dictionaries within dictionaries, whose names are joined with dots.
const MAX_DEPTH: usize = 4;

impl From<ZipError> for HeaderError {
    fn from(error: ZipError) -> Self {
        match error {
            ZipError::Io(error) => Self::Io(error),
            ZipError::Problem(problem) => Self::Problems(vec![problem]),
        }
    }
}

/// The tensors of the torch file that is `length` bytes of a file from `base` on.
pub(crate) fn read(file: &File, base: u64, length: u64) -> Result<Vec<Entry>, HeaderError> {
    read_with(file, base, length, &[], |reader| match reader.pickle.root() {
        Node::Dict(pairs) => {
            let (mut entries, mut problems) = (Vec::new(), Vec::new());
            reader.dict("", pairs, 0, &mut entries, &mut problems);
            if problems.is_empty() { Ok(entries) } else { Err(problems) }
        }
        // A file of one tensor; pieces in torch's distributed checkpoints are such.
        _ => match reader.tensor(String::new(), reader.pickle.root_id()) {
            Ok(entry) => Ok(vec![entry]),
            Err(problem) => Err(vec![problem]),
        },
    })
}

/// What `take` makes of a torch file, whose pickle may also name the globals of the lists `more`.
pub(crate) fn read_with<T>(
    file: &File,
    base: u64,
    length: u64,
    more: &[&[Global]],
    take: impl FnOnce(&Reader<'_>) -> Result<T, Vec<String>>,
) -> Result<T, HeaderError> {
    let members = zip::members(file, base, length)?;
    let archive = Archive::new(file, &members)?;
    let max_bytes = if more.is_empty() { MAX_BYTES } else { MAX_LIST_BYTES };
    let bytes = archive.content("data.pkl", max_bytes as u64)?;
    let problem = |text: String| HeaderError::Problems(vec![text]);
    let globals = [GLOBALS, &more.concat()].concat();
    let parse = if more.is_empty() { Pickle::parse } else { Pickle::parse_list };
    let pickle = parse(&bytes, &globals).map_err(problem)?;
    take(&Reader { pickle: &pickle, archive: &archive }).map_err(HeaderError::Problems)
}

/// `data.pkl` of a dictionary of contiguous tensors, each with a storage of its own that is named
/// by its number.
pub(crate) fn state_dict_pickle(tensors: &[(String, Dtype, Vec<usize>)]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.global("collections", "OrderedDict").op(b')').op(b'R').op(b'(');
    for (index, (name, dtype, shape)) in tensors.iter().enumerate() {
        let storage = match dtype {
            Dtype::F32 => "FloatStorage",
            Dtype::F16 => "HalfStorage",
            Dtype::Bf16 => "BFloat16Storage",
        };
        let n_elements: usize = shape.iter().product();
        writer.text(name).global("torch._utils", "_rebuild_tensor_v2").op(b'(').op(b'(');
        writer.text("storage").global("torch", storage).text(&index.to_string()).text("cpu");
        writer.int(n_elements as u64).op(b't').op(b'Q').int(0);
        writer.sizes(shape).sizes(&strides(shape));
        // No gradient is asked for, and there are no hooks.
        writer.op(0x89).global("collections", "OrderedDict").op(b')').op(b'R').op(b't').op(b'R');
    }
    writer.op(b'u');
    writer.finish()
}

/// Elements from one index to the next of each dimension, the last one running fastest.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// The members of the one folder that an archive of torch has.
struct Archive<'a> {
    file: &'a File,
    /// By their names in the folder.
    members: HashMap<&'a str, &'a Member>,
}

impl<'a> Archive<'a> {
    fn new(file: &'a File, members: &'a [Member]) -> Result<Self, HeaderError> {
        let pickle = members.iter().find_map(|member| {
            let folder = member.name.strip_suffix("data.pkl")?;
            (folder.ends_with('/') && folder.matches('/').count() == 1).then_some(folder)
        });
        let Some(folder) = pickle else {
            let text = "it has no data.pkl in a folder, so torch.save did not write it";
            return Err(HeaderError::Problems(vec![text.to_owned()]));
        };
        let inside = |member: &'a Member| Some((member.name.strip_prefix(folder)?, member));
        let archive = Self { file, members: members.iter().filter_map(inside).collect() };
        if archive.member("byteorder").is_some() && archive.content("byteorder", 16)? != b"little" {
            let text = "its numbers are not little-endian, which is not read";
            return Err(HeaderError::Problems(vec![text.to_owned()]));
        }
        Ok(archive)
    }

    fn member(&self, name: &str) -> Option<&'a Member> {
        self.members.get(name).copied()
    }

    fn content(&self, name: &str, at_most: u64) -> Result<Vec<u8>, HeaderError> {
        let problem = |text: String| HeaderError::Problems(vec![text]);
        let member = self.member(name).ok_or_else(|| problem(format!("it has no {name}")))?;
        if member.n_bytes > at_most {
            let n_bytes = member.n_bytes;
            return Err(problem(format!("{name} has {n_bytes} bytes, expected at most {at_most}")));
        }
        let mut bytes = vec![0; member.n_bytes as usize];
        read_exact_at(self.file, &mut bytes, member.start)?;
        Ok(bytes)
    }
}

/// Turns the values of a pickle into places in the file.
pub(crate) struct Reader<'a> {
    pub(crate) pickle: &'a Pickle<'a>,
    archive: &'a Archive<'a>,
}

impl Reader<'_> {
    fn dict(
        &self,
        prefix: &str,
        pairs: &[(Id, Id)],
        depth: usize,
        entries: &mut Vec<Entry>,
        problems: &mut Vec<String>,
    ) {
        for &(key, value) in pairs {
            let Some(key) = self.pickle.text(key) else {
                problems.push("it has a name that is no text".to_owned());
                continue;
            };
            let name = format!("{prefix}{key}");
            match self.pickle.node(value) {
                Node::Dict(pairs) if depth < MAX_DEPTH => {
                    self.dict(&format!("{name}."), pairs, depth + 1, entries, problems);
                }
                _ => match self.tensor(name, value) {
                    Ok(entry) => entries.push(entry),
                    Err(problem) => problems.push(problem),
                },
            }
        }
    }

    /// Where a value that is a tensor stands.
    pub(crate) fn tensor(&self, name: String, id: Id) -> Result<Entry, String> {
        let shown = name.escape_debug().to_string();
        let wrong = |what: &str| format!("{shown} {what}");
        let no_tensor = || wrong("is no tensor that torch.save writes");
        let (mut callable, mut arguments) = self.pickle.call(id).ok_or_else(no_tensor)?;
        if callable == REBUILD_PARAMETER {
            let data = *arguments.first().ok_or_else(no_tensor)?;
            (callable, arguments) = self.pickle.call(data).ok_or_else(no_tensor)?;
        }
        let [storage, offset, shape, strides, ..] = *arguments else { return Err(no_tensor()) };
        if callable != REBUILD_TENSOR {
            return Err(no_tensor());
        }
        let (member, dtype, size) = self.storage(storage).ok_or_else(|| {
            wrong("has a storage that is of no known dtype, or is not in the archive")
        })?;
        let offset = self.pickle.size(offset).ok_or_else(no_tensor)?;
        let shape = self.pickle.sizes(shape).ok_or_else(no_tensor)?;
        let found = self.pickle.sizes(strides).ok_or_else(no_tensor)?;
        let n_elements = shape.iter().try_fold(1_u64, |n, &size| n.checked_mul(size));
        let n_bytes = n_elements.and_then(|n| n.checked_mul(size));
        let end = offset.checked_mul(size).zip(n_bytes).and_then(|(a, b)| a.checked_add(b));
        if end.is_none_or(|end| end > member.n_bytes) {
            let there = member.n_bytes;
            return Err(wrong(&format!("of shape {shape:?} does not fit its {there} bytes")));
        }
        let shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
        let is_contiguous = shape.contains(&0)
            || shape
                .iter()
                .zip(strides_of(&shape).iter().zip(&found))
                .all(|(size, (expected, found))| *size == 1 || *expected == *found);
        if !is_contiguous || shape.len() != found.len() {
            return Err(wrong(&format!(
                "of shape {shape:?} has strides {found:?}, expected rows one after another"
            )));
        }
        Ok(Entry { name, dtype: dtype.to_owned(), shape, start: member.start + offset * size })
    }

    /// The bytes that a tensor lies in, and what they are of.
    fn storage(&self, id: Id) -> Option<(&Member, &'static str, u64)> {
        let Node::Persistent(id) = self.pickle.node(id) else { return None };
        let [kind, class, key, _device, _n_elements] = *self.pickle.tuple(*id)? else {
            return None;
        };
        let Node::Global(class) = self.pickle.node(class) else { return None };
        let (_, dtype, size) = STORAGES.iter().find(|(global, ..)| global == class)?;
        let member = self.archive.member(&format!("data/{}", self.pickle.text(key)?))?;
        (self.pickle.text(kind)? == "storage").then_some((member, *dtype, *size))
    }
}

fn strides_of(shape: &[usize]) -> Vec<u64> {
    strides(shape).into_iter().map(|stride| stride as u64).collect()
}
