//! Pieces of several documents in turn, so that a model must look back over what lies between.
//!
//! The documents of an instance are chosen by a shuffle of all; each is cut to its share of the
//! sequence, loses its special tokens and is split into `chunks_per_doc` pieces as even as can be.
//! Then come the first pieces of all, the second ones, and so on, an end token, and padding.
//! Documents of exempt files come first, one an instance.

use super::padded::PaddedInstances;
use super::source::{InstanceConfig, Sources};
use super::{InstanceItem, InstancePart, Instances};
use crate::rng::Generator;
use crate::{Error, Result};

/// OLMo-core's `NumpyInterleavedFSLDataset`.
#[derive(Debug)]
pub struct InterleavedInstances {
    documents: PaddedInstances,
    docs_per_instance: usize,
    chunks_per_doc: usize,
    exempt: Vec<usize>,
    interleaved: Vec<usize>,
}

impl InterleavedInstances {
    /// Interleaves the documents of some files; `exempt_files` are numbers of files.
    ///
    /// # Errors
    ///
    /// [`Error::SeqLen`]; [`Error::Setting`] where the sequence length is no multiple of the numbers
    /// of documents and of pieces; those of reading the files.
    pub fn new(
        sources: Sources,
        config: InstanceConfig,
        sequence_length: usize,
        docs_per_instance: usize,
        chunks_per_doc: usize,
        seed: u64,
        exempt_files: &[usize],
    ) -> Result<Self> {
        for (name, found) in
            [("docs_per_instance", docs_per_instance), ("chunks_per_doc", chunks_per_doc)]
        {
            if found == 0 || !sequence_length.is_multiple_of(found) {
                let expected = format!("a divisor of the sequence length {sequence_length}");
                return Err(Error::Setting { name, found: found as u64, expected });
            }
        }
        let config = InstanceConfig { generate_doc_lengths: false, ..config };
        let documents = PaddedInstances::new(sources, config, sequence_length)?;
        let is_exempt = |file: usize| exempt_files.contains(&file);
        let (mut exempt, mut interleaved) = (Vec::new(), Vec::new());
        for (document, file) in documents.files_of_documents().enumerate() {
            if is_exempt(file) { exempt.push(document) } else { interleaved.push(document) }
        }
        Generator::new(seed).shuffle(&mut interleaved);
        Ok(Self { documents, docs_per_instance, chunks_per_doc, exempt, interleaved })
    }

    /// The files.
    pub fn sources(&self) -> &Sources {
        self.documents.sources()
    }

    /// The pieces of all documents in turn.
    fn interleave<T: Copy>(&self, documents: &[Vec<T>]) -> Vec<T> {
        let mut taken = Vec::new();
        for chunk in 0..self.chunks_per_doc {
            for document in documents {
                // As `tensor_split`: the first ones are longer by one.
                let (size, longer) =
                    (document.len() / self.chunks_per_doc, document.len() % self.chunks_per_doc);
                let start = chunk * size + chunk.min(longer);
                let end = start + size + usize::from(chunk < longer);
                taken.extend_from_slice(&document[start..end]);
            }
        }
        taken
    }
}

impl Instances for InterleavedInstances {
    fn len(&self) -> usize {
        self.exempt.len() + self.interleaved.len() / self.docs_per_instance
    }

    fn sequence_length(&self) -> usize {
        self.documents.sequence_length()
    }

    fn get(&self, index: usize) -> Result<InstanceItem> {
        if let Some(&document) = self.exempt.get(index) {
            return self.documents.get(document);
        }
        if index >= self.len() {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        }
        let first = (index - self.exempt.len()) * self.docs_per_instance;
        let sequence_length = self.documents.sequence_length();
        let share = sequence_length / self.docs_per_instance;
        let config = self.documents.config();
        let ids = config.ids;
        let (mut tokens, mut masks, mut keep) = (Vec::new(), Vec::new(), Vec::new());
        for &document in &self.interleaved[first..first + self.docs_per_instance] {
            let item = self.documents.get(document)?;
            keep.extend(item.instance_mask);
            let mask = item.label_mask.unwrap_or_else(|| vec![true; item.input_ids.len()]);
            let (kept_tokens, kept_mask): (Vec<u32>, Vec<bool>) = item
                .input_ids
                .into_iter()
                .zip(mask)
                .take(share)
                .filter(|&(id, _)| {
                    id != ids.pad_token_id && id != ids.eos_token_id && Some(id) != ids.bos_token_id
                })
                .unzip();
            tokens.push(kept_tokens);
            masks.push(kept_mask);
        }
        let (mut input_ids, mut label_mask) = (self.interleave(&tokens), self.interleave(&masks));
        if let Some(bos) = ids.bos_token_id.filter(|_| input_ids.len() < sequence_length) {
            input_ids.insert(0, bos);
            label_mask.insert(0, true);
        }
        if input_ids.len() < sequence_length {
            input_ids.push(ids.eos_token_id);
            label_mask.push(true);
        }
        let mut label_mask = Some(label_mask);
        config.pad(&mut input_ids, &mut label_mask, sequence_length);
        let instance_mask = config.filter.map(|_| keep.into_iter().all(|kept| kept));
        Ok(InstanceItem { input_ids, label_mask, instance_mask, doc_lens: None })
    }

    /// A part is all that is taken of a document, though it is cut up and mixed with the others.
    fn parts(&self, index: usize) -> Result<Vec<InstancePart<'_>>> {
        if let Some(&document) = self.exempt.get(index) {
            return self.documents.parts(document);
        }
        if index >= self.len() {
            return Err(Error::InstanceIndex { index, n_instances: self.len() });
        }
        let first = (index - self.exempt.len()) * self.docs_per_instance;
        let share = (self.documents.sequence_length() / self.docs_per_instance) as u64;
        let mut parts = Vec::new();
        for &document in &self.interleaved[first..first + self.docs_per_instance] {
            parts.extend(self.documents.parts(document)?.into_iter().map(|part| {
                let end = part.tokens.end.min(part.tokens.start + share);
                InstancePart { tokens: part.tokens.start..end, ..part }
            }));
        }
        Ok(parts)
    }
}
