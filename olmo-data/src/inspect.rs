//! What a run saw at a step, and when it saw a document.
//!
//! Step 1 is the first batch, as the trainers count; at step 0 nothing has been seen. Step `s` is
//! batch `(s - 1) mod B` of epoch `(s - 1) / B` for the `B` whole batches of an epoch, and the order
//! of each epoch is that of [`DataOrder`], or OLMo-core's [`FslOrder`](crate::FslOrder). Only the instances asked for are followed through the
//! shuffle, see [`ShuffledRange`], so memory does not grow with the data.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use crate::document_bounds::{DocumentBound, DocumentBounds};
use crate::fsl_order::FslOrderConfig;
use crate::global_indices::GlobalIndices;
use crate::instance_table::InstanceTable;
use crate::rng::ShuffledRange;
use crate::sampler::{DataOrder, DataOrderConfig, Tail};
use crate::token_file::TokenFile;
use crate::tokenizer::{SpecialTokens, Tokenizer};
use crate::{Error, Result};

/// A run's data and their order.
#[derive(Debug)]
pub struct Inspector {
    table: InstanceTable,
    global_batch_size: usize,
    seed: u64,
    first_epoch: u64,
    tail: Tail,
    /// OLMo-core's order, with its chunk size.
    chunk_size: Option<usize>,
    saved_order: Option<GlobalIndices>,
}

/// One instance of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedInstance {
    /// Its index in the dataset.
    pub index: u32,
    /// Its file.
    pub path: String,
    /// Its first byte there.
    pub byte_offset: u64,
    /// Its documents; none where there is no `.csv.gz`.
    pub documents: Option<Vec<DocumentBound>>,
    /// Its text, where a tokenizer was given.
    pub text: Option<String>,
}

/// A time at which a document was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sighting {
    /// Step, from 1.
    pub step: u64,
    /// Epoch, as the run counts.
    pub epoch: u64,
    /// Place of the instance in its batch.
    pub row: usize,
    /// The instance.
    pub index: u32,
    /// Its file.
    pub path: String,
    /// Where the document lies in that file.
    pub document: DocumentBound,
}

impl Inspector {
    /// The run of a table of files, in batches of `global_batch_size` instances.
    ///
    /// # Errors
    ///
    /// [`Error::NoBatches`] where an epoch has no batch.
    pub fn new(
        table: InstanceTable,
        global_batch_size: usize,
        seed: u64,
        first_epoch: u64,
        tail: Tail,
    ) -> Result<Self> {
        if table.len() < global_batch_size || global_batch_size == 0 {
            return Err(Error::NoBatches { n_instances: table.len(), global_batch_size });
        }
        Ok(Self {
            table,
            global_batch_size,
            seed,
            first_epoch,
            tail,
            chunk_size: None,
            saved_order: None,
        })
    }

    /// Takes OLMo-core's order in chunks of `chunk_size` instances, 1 for none; its first epoch is 1.
    pub fn with_olmo_core_order(mut self, chunk_size: usize) -> Self {
        self.chunk_size = Some(chunk_size);
        self
    }

    /// Takes the order from a file that a run has saved, which is that of one epoch.
    ///
    /// # Errors
    ///
    /// [`Error::OtherOrder`] where the file has too many or too few indices for these data.
    pub fn with_global_indices(mut self, saved: GlobalIndices) -> Result<Self> {
        let (found, n_instances) = (saved.len(), self.table.len());
        // The ranks divide a batch, so padding or cutting moves the end by less than that.
        if found.abs_diff(n_instances) >= self.global_batch_size {
            return Err(Error::OtherOrder { path: saved.path().to_owned(), found, n_instances });
        }
        self.saved_order = Some(saved);
        Ok(self)
    }

    /// The files.
    pub fn table(&self) -> &InstanceTable {
        &self.table
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.table.len() / self.global_batch_size) as u64
    }

    /// The instances of a step over all ranks, in order; none at step 0.
    ///
    /// # Errors
    ///
    /// Those of reading the saved order; [`Error::Setting`] where the epoch is out of range.
    pub fn batch(&self, step: u64) -> Result<Vec<u32>> {
        let Some(number) = step.checked_sub(1) else { return Ok(Vec::new()) };
        let first = (number % self.steps_per_epoch()) as usize * self.global_batch_size;
        let places = first..first + self.global_batch_size;
        if let Some(saved) = &self.saved_order {
            return saved.read(places);
        }
        let epoch = self.first_epoch.saturating_add(number / self.steps_per_epoch());
        if let Some(chunk_size) = self.chunk_size {
            let sequence_length = self.table.seq_len();
            let config = FslOrderConfig {
                seed: self.seed,
                epoch,
                shuffle: true,
                chunk_size,
                global_batch_size: self.global_batch_size * sequence_length,
                sequence_length,
            };
            return config.batch(self.table.len(), first / self.global_batch_size);
        }
        let config = DataOrderConfig {
            seed: self.seed,
            epoch,
            tail: self.tail,
            ..DataOrderConfig::default()
        };
        DataOrder::at(self.table.len(), &config, places)
    }

    /// What some instances are: file, place, documents, and the text where there is a tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error::InstanceIndex`] where an index is past the data; those of reading a `.csv.gz` or the
    /// tokens.
    pub fn describe(
        &self,
        indices: &[u32],
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Vec<InspectedInstance>> {
        let mut by_file: BTreeMap<usize, Vec<(u64, usize)>> = BTreeMap::new();
        let mut instances = Vec::with_capacity(indices.len());
        for (row, &index) in indices.iter().enumerate() {
            let (file, location) = self.table.locate(index as usize)?;
            by_file.entry(file).or_default().push((location.token_offset, row));
            let path = location.path.display().to_string();
            let byte_offset = location.byte_offset;
            let (documents, text) = (None, None);
            instances.push(InspectedInstance { index, path, byte_offset, documents, text });
        }
        let files: Vec<(&Path, u64)> = self.table.files().collect();
        let by_file: Vec<(usize, Vec<(u64, usize)>)> = by_file.into_iter().collect();
        let described: Vec<Vec<Described>> = by_file
            .into_par_iter()
            .map(|(file, rows)| self.describe_file(files[file], rows, tokenizer))
            .collect::<Result<_>>()?;
        for (row, documents, text) in described.into_iter().flatten() {
            instances[row].documents = documents;
            instances[row].text = text;
        }
        Ok(instances)
    }

    fn describe_file(
        &self,
        (path, n_tokens): (&Path, u64),
        mut rows: Vec<(u64, usize)>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Vec<Described>> {
        rows.sort_unstable();
        let seq_len = self.table.seq_len();
        let range = |start: u64| start..start + seq_len as u64;
        let ranges: Vec<Range<u64>> = rows.iter().map(|&(start, _)| range(start)).collect();
        let mut documents = match DocumentBounds::open(path, n_tokens)? {
            Some(bounds) => bounds.overlapping(&ranges)?.into_iter().map(Some).collect(),
            None => vec![None; rows.len()],
        };
        let Some(tokenizer) = tokenizer else {
            return Ok(rows.iter().zip(documents).map(|(&(_, row), d)| (row, d, None)).collect());
        };
        let tokens = TokenFile::open(path, self.table.dtype())?.for_random_access();
        rows.into_iter()
            .zip(&mut documents)
            .map(|((start, row), documents)| {
                let ids = tokens.read(start as usize..start as usize + seq_len)?;
                let text = tokenizer.decode_lossy(&ids, SpecialTokens::Keep)?;
                Ok((row, documents.take(), Some(text)))
            })
            .collect()
    }

    /// When a document was seen, over some epochs from the first on.
    ///
    /// # Errors
    ///
    /// Those of reading the `.csv.gz` files and the saved order.
    pub fn find(&self, id: &str, n_epochs: u64) -> Result<Vec<Sighting>> {
        let files: Vec<(&Path, u64)> = self.table.files().collect();
        let places: Vec<Vec<DocumentBound>> =
            files.par_iter().map(|&file| bounds_of(id, file)).collect::<Result<_>>()?;
        let mut wanted: Vec<(u32, usize, &DocumentBound)> = Vec::new();
        for (file, bounds) in places.iter().enumerate() {
            for bound in bounds {
                let instances = self.table.instances_of(file, bound.start, bound.end);
                wanted.extend(instances.map(|index| (index as u32, file, bound)));
            }
        }
        let indices: Vec<u32> = wanted.iter().map(|&(index, _, _)| index).collect();
        let mut sightings = Vec::new();
        for epoch in 0..n_epochs {
            for (positions, &(index, file, bound)) in
                self.positions(&indices, epoch)?.into_iter().zip(&wanted)
            {
                for position in positions {
                    let batch = (position / self.global_batch_size) as u64;
                    if batch < self.steps_per_epoch() {
                        sightings.push(Sighting {
                            step: epoch * self.steps_per_epoch() + batch + 1,
                            epoch: self.first_epoch + epoch,
                            row: position % self.global_batch_size,
                            index,
                            path: files[file].0.display().to_string(),
                            document: bound.clone(),
                        });
                    }
                }
            }
        }
        sightings.sort_by_key(|sighting| (sighting.step, sighting.row));
        Ok(sightings)
    }

    /// Where in the order of an epoch some instances are.
    fn positions(&self, indices: &[u32], epoch: u64) -> Result<Vec<Vec<usize>>> {
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(saved) = &self.saved_order {
            return saved.positions(indices);
        }
        let epoch_seed = self.seed.wrapping_add(self.first_epoch).wrapping_add(epoch);
        // In chunks, the chunk of an instance is followed, and the instance keeps its place in it.
        let chunk_size = self.chunk_size.unwrap_or(1).max(1) as u32;
        let n_chunks = self.table.len() as u32 / chunk_size;
        let chunks: Vec<u32> = indices.iter().map(|index| index / chunk_size).collect();
        let whole: Vec<u32> = chunks.iter().copied().filter(|&chunk| chunk < n_chunks).collect();
        let mut places = ShuffledRange::new(epoch_seed, n_chunks).positions(&whole).into_iter();
        let place = |(&index, chunk): (&u32, u32)| {
            let place = if chunk < n_chunks { places.next() } else { None };
            place.map(|at| (at * chunk_size + index % chunk_size) as usize).into_iter().collect()
        };
        Ok(indices.iter().zip(chunks).map(place).collect())
    }
}

/// Row in the batch, documents, text.
type Described = (usize, Option<Vec<DocumentBound>>, Option<String>);

/// The places of a document in a token file.
fn bounds_of(id: &str, (path, n_tokens): (&Path, u64)) -> Result<Vec<DocumentBound>> {
    let Some(bounds) = DocumentBounds::open(path, n_tokens)? else { return Ok(Vec::new()) };
    let is_it = |bound: &Result<DocumentBound>| match bound {
        Ok(bound) => bound.id.as_deref() == Some(id),
        Err(_) => true,
    };
    bounds.filter(is_it).collect()
}
