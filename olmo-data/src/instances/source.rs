//! The files that instances are made of, with what all kinds of instances share.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::documents::document_lengths;
use super::filter::RepetitionFilter;
use super::{InstanceItem, InstancePart};
use crate::fingerprint::SpecialTokenIds;
use crate::token_file::{TokenDtype, TokenFile};
use crate::{Error, Result};

/// What all kinds of instances are told.
#[derive(Debug, Clone, Copy)]
pub struct InstanceConfig {
    /// Tokens with a meaning.
    pub ids: SpecialTokenIds,
    /// Whether lengths of documents go with each instance.
    pub generate_doc_lengths: bool,
    /// Which instances count; all where there is none.
    pub filter: Option<RepetitionFilter>,
}

/// A file that says for each token of another whether it counts as a label: a byte each, 0 or 1.
#[derive(Debug)]
pub struct LabelMaskFile {
    bytes: TokenFile,
}

/// Token files, each with its mask where there are masks.
#[derive(Debug)]
pub struct Sources {
    pub(super) files: Vec<TokenFile>,
    masks: Option<Vec<LabelMaskFile>>,
    dtype: TokenDtype,
    vocab_size: Option<u32>,
}

impl LabelMaskFile {
    /// Opens the mask of a file of tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::LabelMaskLen`] where it is of another length than the tokens.
    pub fn open(path: impl AsRef<Path>, tokens: &TokenFile) -> Result<Self> {
        let bytes = TokenFile::open(path, TokenDtype::Uint8)?;
        if bytes.len() != tokens.len() {
            return Err(Error::LabelMaskLen {
                path: bytes.path().to_owned(),
                found: bytes.len() as u64,
                tokens: tokens.path().to_owned(),
                expected: tokens.len() as u64,
            });
        }
        Ok(Self { bytes })
    }

    /// The mask of a range of tokens.
    ///
    /// # Errors
    ///
    /// [`Error::TokenRange`] where it reaches past the end; [`Error::TokenOutOfRange`] where a byte
    /// is neither 0 nor 1.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<bool>> {
        let start = range.start;
        let bytes = self.bytes.read(start as usize..range.end as usize)?;
        bytes
            .into_iter()
            .enumerate()
            .map(|(i, byte)| match byte {
                0 => Ok(false),
                1 => Ok(true),
                other => Err(Error::TokenOutOfRange {
                    path: self.bytes.path().to_owned(),
                    position: start + i as u64,
                    token: other.into(),
                    limit: 2,
                }),
            })
            .collect()
    }
}

impl Sources {
    /// Opens files of tokens, and their masks.
    ///
    /// # Errors
    ///
    /// Those of [`TokenFile::open`] and [`LabelMaskFile::open`]; [`Error::NoFiles`];
    /// [`Error::Setting`] where there are not as many masks as files.
    pub fn open(
        paths: &[PathBuf],
        dtype: TokenDtype,
        label_mask_paths: Option<&[PathBuf]>,
    ) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::NoFiles);
        }
        let files: Vec<TokenFile> =
            paths.iter().map(|path| TokenFile::open(path, dtype)).collect::<Result<_>>()?;
        let masks = match label_mask_paths {
            None => None,
            Some(paths) if paths.len() != files.len() => {
                return Err(Error::Setting {
                    name: "number of label_mask_paths",
                    found: paths.len() as u64,
                    expected: format!("{}, one for each token file", files.len()),
                });
            }
            Some(paths) => {
                let opened = paths.iter().zip(&files).map(|(p, file)| LabelMaskFile::open(p, file));
                Some(opened.collect::<Result<_>>()?)
            }
        };
        Ok(Self { files, masks, dtype, vocab_size: None })
    }

    /// Makes reading a token at or past `vocab_size` an error, which catches a wrong token type.
    pub fn with_vocab_size(mut self, vocab_size: u32) -> Self {
        self.vocab_size = Some(vocab_size);
        self
    }

    /// The integer type of the files.
    pub fn dtype(&self) -> TokenDtype {
        self.dtype
    }

    /// The files.
    pub fn files(&self) -> &[TokenFile] {
        &self.files
    }

    /// Some tokens of a file as the part of an instance.
    pub(super) fn part(&self, file: usize, tokens: Range<u64>) -> InstancePart<'_> {
        InstancePart { path: self.files[file].path(), tokens }
    }

    /// Tokens of a file, and their mask.
    pub(super) fn read(
        &self,
        file: usize,
        range: Range<u64>,
    ) -> Result<(Vec<u32>, Option<Vec<bool>>)> {
        let mut tokens = vec![0; (range.end - range.start) as usize];
        self.files[file].read_checked(range.start as usize, &mut tokens, self.vocab_size)?;
        let mask = self.masks.as_ref().map(|masks| masks[file].read(range)).transpose()?;
        Ok((tokens, mask))
    }
}

impl InstanceConfig {
    /// An instance of tokens that need no padding.
    pub(super) fn item(&self, input_ids: Vec<u32>, label_mask: Option<Vec<bool>>) -> InstanceItem {
        let ids = self.ids;
        InstanceItem {
            instance_mask: self.filter.map(|filter| filter.keeps(&input_ids)),
            doc_lens: self
                .generate_doc_lengths
                .then(|| document_lengths(&input_ids, ids.eos_token_id, ids.bos_token_id)),
            input_ids,
            label_mask,
        }
    }

    /// Pads tokens and mask at their end; padding does not count.
    pub(super) fn pad(
        &self,
        input_ids: &mut Vec<u32>,
        label_mask: &mut Option<Vec<bool>>,
        sequence_length: usize,
    ) {
        let n_tokens = input_ids.len();
        label_mask.get_or_insert_with(|| vec![true; n_tokens]).resize(sequence_length, false);
        input_ids.resize(sequence_length, self.ids.pad_token_id);
    }
}

/// Checks a length that must be at least 1.
pub(super) fn check_sequence_length(sequence_length: usize) -> Result<()> {
    let max = u32::MAX as usize;
    if sequence_length == 0 || sequence_length > max {
        return Err(Error::SeqLen { seq_len: sequence_length, max });
    }
    Ok(())
}
