//! Files of tokens: raw little-endian integers, memory-mapped.
//!
//! Such a file is what `numpy.memmap(path, mode="w+")` or Dolma's `tokens` command writes: no
//! header, although its name usually ends in `.npy`; its size over the size of a token is the
//! number of tokens. A file that `numpy.save` wrote is refused, since its header would be read as
//! tokens.
//!
//! Difference from OLMo's `MemMapDataset`: a size that is no multiple of the token's is an error
//! here, while there the odd bytes are ignored.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The integer type of a token in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum TokenDtype {
    /// One byte, as `np.uint8`.
    Uint8,
    /// Two bytes, as `np.uint16`; OLMo's default, enough for 65,536 tokens.
    #[default]
    Uint16,
    /// Four bytes, as `np.uint32`; what OLMo 2 and 3 use.
    Uint32,
    /// Eight bytes, as `np.uint64`; tokens past 32 bits are errors when they are read.
    Uint64,
}

impl TokenDtype {
    /// The smallest type for a vocabulary, but no smaller than `uint16`.
    pub fn for_vocab_size(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::Uint16 } else { Self::Uint32 }
    }

    /// Bytes of one token.
    pub fn item_bytes(self) -> usize {
        match self {
            Self::Uint8 => 1,
            Self::Uint16 => 2,
            Self::Uint32 => 4,
            Self::Uint64 => 8,
        }
    }

    /// The largest token this type can hold and a `u32` too.
    pub fn max_token(self) -> u32 {
        match self {
            Self::Uint8 => u32::from(u8::MAX),
            Self::Uint16 => u32::from(u16::MAX),
            Self::Uint32 | Self::Uint64 => u32::MAX,
        }
    }

    /// NumPy's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
        }
    }

    /// Appends the bytes of a token that is known to fit.
    pub(crate) fn encode(self, token: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&u64::from(token).to_le_bytes()[..self.item_bytes()]);
    }
}

impl fmt::Display for TokenDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TokenDtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Uint8, Self::Uint16, Self::Uint32, Self::Uint64]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| Error::UnknownDtype { found: name.to_owned() })
    }
}

/// One file of tokens, open for reading at any place.
///
/// The file must not be changed while it is open: it is mapped into memory, so that a change shows
/// and a shortened file ends the process with a bus error.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    dtype: TokenDtype,
    /// None where the file is empty, which cannot be mapped.
    map: Option<Mmap>,
}

impl TokenFile {
    /// Opens a file of tokens. An empty one is a file of zero tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the file cannot be read, [`Error::NumpyHeader`] where it is a real `.npy`
    /// file, [`Error::PartialToken`] where its size is no multiple of a token's.
    pub fn open(path: impl AsRef<Path>, dtype: TokenDtype) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let map = map_file(&path).map_err(Error::io(&path))?;
        let bytes: &[u8] = map.as_deref().unwrap_or_default();
        if has_numpy_header(bytes) {
            return Err(Error::NumpyHeader { path });
        }
        if !bytes.len().is_multiple_of(dtype.item_bytes()) {
            return Err(Error::PartialToken {
                path,
                bytes: bytes.len() as u64,
                dtype: dtype.name(),
                item_bytes: dtype.item_bytes(),
            });
        }
        Ok(Self { path, dtype, map })
    }

    /// Tells the system that small parts far from each other will be read, so that it does not read
    /// ahead. Only advice: nothing else changes.
    pub fn for_random_access(self) -> Self {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // Without it reading is slower and otherwise the same, so a refusal is no error.
            let _ = map.advise(memmap2::Advice::Random);
        }
        self
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The integer type of its tokens.
    pub fn dtype(&self) -> TokenDtype {
        self.dtype
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.bytes().len() / self.dtype.item_bytes()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// The tokens of a range of positions.
    ///
    /// # Errors
    ///
    /// [`Error::TokenRange`] where the range reaches past the end, [`Error::TokenOutOfRange`] where a
    /// token of a `uint64` file is past 32 bits.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u32>> {
        if range.start > range.end || range.end > self.len() {
            return Err(self.range_error(&range));
        }
        let mut tokens = vec![0; range.len()];
        self.read_into(range.start, &mut tokens)?;
        Ok(tokens)
    }

    /// Fills a slice with the tokens from position `start` on.
    ///
    /// # Errors
    ///
    /// As of [`TokenFile::read`].
    pub fn read_into(&self, start: usize, tokens: &mut [u32]) -> Result<()> {
        let end = start.checked_add(tokens.len()).filter(|&end| end <= self.len());
        let Some(end) = end else {
            return Err(self.range_error(&(start..start.saturating_add(tokens.len()))));
        };
        let item = self.dtype.item_bytes();
        let bytes = &self.bytes()[start * item..end * item];
        match self.dtype {
            TokenDtype::Uint8 => fill(tokens, bytes, |[b]: [u8; 1]| u32::from(b)),
            TokenDtype::Uint16 => fill(tokens, bytes, |b| u32::from(u16::from_le_bytes(b))),
            TokenDtype::Uint32 => fill(tokens, bytes, u32::from_le_bytes),
            TokenDtype::Uint64 => return self.fill_narrowed(start, tokens, bytes),
        }
        Ok(())
    }

    /// As [`TokenFile::read_into`]; a token at or past `vocab_size` is an error.
    pub(crate) fn read_checked(
        &self,
        start: usize,
        tokens: &mut [u32],
        vocab_size: Option<u32>,
    ) -> Result<()> {
        self.read_into(start, tokens)?;
        let Some(limit) = vocab_size else { return Ok(()) };
        match tokens.iter().position(|&token| token >= limit) {
            None => Ok(()),
            Some(at) => Err(Error::TokenOutOfRange {
                path: self.path.clone(),
                position: (start + at) as u64,
                token: tokens[at].into(),
                limit: limit.into(),
            }),
        }
    }

    fn fill_narrowed(&self, start: usize, tokens: &mut [u32], bytes: &[u8]) -> Result<()> {
        let (words, _) = bytes.as_chunks::<8>();
        for (i, (token, &word)) in tokens.iter_mut().zip(words).enumerate() {
            let wide = u64::from_le_bytes(word);
            *token = u32::try_from(wide).map_err(|_| Error::TokenOutOfRange {
                path: self.path.clone(),
                position: (start + i) as u64,
                token: wide,
                limit: 1 << 32,
            })?;
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    fn range_error(&self, range: &Range<usize>) -> Error {
        Error::TokenRange {
            path: self.path.clone(),
            start: range.start as u64,
            end: range.end as u64,
            n_tokens: self.len() as u64,
        }
    }
}

fn map_file(path: &Path) -> std::io::Result<Option<Mmap>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        let (kind, what) = if metadata.is_dir() {
            (ErrorKind::IsADirectory, "a folder, expected a token file, such as one in it")
        } else {
            (ErrorKind::InvalidInput, "not a regular file, so it cannot be mapped")
        };
        return Err(std::io::Error::new(kind, what));
    }
    if metadata.len() == 0 {
        return Ok(None);
    }
    let file = File::open(path)?;
    // SAFETY: the map is only read, as bytes, for which every bit pattern is valid. That the file
    // is not changed meanwhile is asked of the user in the documentation of `TokenFile`.
    unsafe { Mmap::map(&file) }.map(Some)
}

/// Whether the bytes begin as `numpy.save` writes them: magic, version, then a Python dict.
pub(crate) fn has_numpy_header(bytes: &[u8]) -> bool {
    let dict = match bytes.get(6) {
        Some(1) => 10,
        Some(2 | 3) => 12,
        _ => return false,
    };
    bytes.starts_with(b"\x93NUMPY") && bytes.get(dict) == Some(&b'{')
}

fn fill<const N: usize>(tokens: &mut [u32], bytes: &[u8], decode: impl Fn([u8; N]) -> u32) {
    let (items, _) = bytes.as_chunks::<N>();
    for (token, &item) in tokens.iter_mut().zip(items) {
        *token = decode(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(bytes: &[u8], dtype: TokenDtype) -> Result<TokenFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.npy");
        std::fs::write(&path, bytes).unwrap();
        TokenFile::open(path, dtype)
    }

    #[test]
    fn every_type_is_little_endian() {
        let bytes = [1, 2, 3, 4, 0, 0, 0, 0];
        let read = |dtype| file(&bytes, dtype).unwrap().read(0..1).unwrap()[0];
        assert_eq!(read(TokenDtype::Uint8), 1);
        assert_eq!(read(TokenDtype::Uint16), 0x0201);
        assert_eq!(read(TokenDtype::Uint32), 0x0403_0201);
        assert_eq!(read(TokenDtype::Uint64), 0x0403_0201);
    }

    #[test]
    fn ranges_are_checked() {
        let tokens = file(&[1, 0, 2, 0, 3, 0], TokenDtype::Uint16).unwrap();
        assert_eq!(tokens.read(1..3).unwrap(), [2, 3]);
        assert!(tokens.read(3..3).unwrap().is_empty());
        assert!(matches!(
            tokens.read(2..4),
            Err(Error::TokenRange { start: 2, end: 4, n_tokens: 3, .. })
        ));
        assert!(tokens.read(usize::MAX..usize::MAX).is_err());
        assert!(tokens.read_into(usize::MAX, &mut [0, 0]).is_err());
    }

    #[test]
    fn wrong_files_are_named() {
        assert!(
            file(&[1, 2, 3], TokenDtype::Uint16).unwrap_err().to_string().contains("tokens.npy")
        );
        let error = TokenFile::open("no/such/file.npy", TokenDtype::Uint16).unwrap_err();
        assert!(error.to_string().starts_with("no/such/file.npy: "), "{error}");
        assert!(TokenFile::open(std::env::temp_dir(), TokenDtype::Uint16).is_err());
    }

    #[test]
    fn numpy_headers_are_refused() {
        let header = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<u2', 'fortran_order': False}      ";
        assert!(matches!(file(header, TokenDtype::Uint16), Err(Error::NumpyHeader { .. })));
    }

    #[test]
    fn tokens_past_32_bits_are_errors() {
        let mut bytes = 7u64.to_le_bytes().to_vec();
        bytes.extend((1u64 << 32).to_le_bytes());
        let tokens = file(&bytes, TokenDtype::Uint64).unwrap();
        assert_eq!(tokens.read(0..1).unwrap(), [7]);
        assert!(matches!(tokens.read(0..2), Err(Error::TokenOutOfRange { position: 1, .. })));
    }

    #[test]
    fn an_empty_file_has_no_tokens() {
        let tokens = file(&[], TokenDtype::Uint32).unwrap();
        assert_eq!((tokens.len(), tokens.is_empty()), (0, true));
        assert!(tokens.read(0..0).unwrap().is_empty());
    }

    proptest! {
           #[test]
           fn any_bytes_are_tokens_or_an_error(
               bytes in prop::collection::vec(any::<u8>(), 0..40),
               dtype in prop::sample::select(vec![
                   TokenDtype::Uint8, TokenDtype::Uint16, TokenDtype::Uint32, TokenDtype::Uint64,
               ]),
               start in any::<usize>(),
               end in 0usize..50,
           ) {
               match file(&bytes, dtype) {
                   Err(_) => prop_assert_ne!(bytes.len() % dtype.item_bytes(), 0),
                   Ok(tokens) => {
                       prop_assert_eq!(tokens.len() * dtype.item_bytes(), bytes.len());
                       let start = start % 50;
                       match tokens.read(start..end) {
                           Ok(read) => {
                               let mut written = Vec::new();
                               for &token in &read {
    dtype.encode(token, &mut written);
    }
                               let item = dtype.item_bytes();
                               prop_assert_eq!(written, &bytes[start * item..end * item]);
                           }
                           Err(Error::TokenOutOfRange { .. }) => {
                               prop_assert_eq!(dtype, TokenDtype::Uint64);
                           }
                           Err(_) => prop_assert!(start > end || end > tokens.len()),
                       }
                   }
               }
           }
       }

    #[test]
    fn names_are_numpys() {
        for name in ["uint8", "uint16", "uint32", "uint64"] {
            assert_eq!(name.parse::<TokenDtype>().unwrap().to_string(), name);
            assert_eq!(
                serde_json::to_string(&name.parse::<TokenDtype>().unwrap()).unwrap(),
                format!("{name:?}")
            );
        }
        assert!("int32".parse::<TokenDtype>().is_err());
        assert_eq!(TokenDtype::for_vocab_size(65_536), TokenDtype::Uint16);
        assert_eq!(TokenDtype::for_vocab_size(65_537), TokenDtype::Uint32);
    }
}
