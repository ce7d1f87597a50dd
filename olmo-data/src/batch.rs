//! A batch of instances on the host.

/// Instances of one rank for one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Index in the dataset of each row.
    pub indices: Vec<u32>,
    /// Tokens, row after row: `[n_instances, seq_len]`.
    pub tokens: Vec<u32>,
    /// Tokens of a row.
    pub seq_len: usize,
    /// Whether each token counts where it is to be predicted, `[n_instances, seq_len]`: the label
    /// masks and the filter of the dataset together, where it has any.
    pub label_mask: Option<Vec<bool>>,
    /// Rows that the filter leaves out, of whose tokens none counts.
    pub n_filtered: usize,
    /// Lengths of the documents in each row, where the dataset gives them.
    pub doc_lens: Option<Vec<Vec<u32>>>,
}

impl Batch {
    /// Number of rows.
    pub fn n_instances(&self) -> usize {
        self.indices.len()
    }

    /// The rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u32]> + '_ {
        self.tokens.chunks_exact(self.seq_len)
    }
}
