//! The head of a model as a step computes it, with the matrix that it multiplies by.

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor};
use olmo_model::linear::Embedding;
use olmo_model::{LmHead, Transformer, walk};

/// The head and, with tied weights, the embedding, a leaf that is not the head's.
pub(super) struct Head {
    pub(super) head: LmHead,
    pub(super) tied: Option<Embedding>,
}

impl Head {
    /// Leaves in a dtype.
    pub(super) fn leaves(model: &Transformer, dtype: FloatDType) -> Self {
        let head = walk::leaves(&model.lm_head, dtype);
        let tied = head.w_out.is_none().then(|| walk::leaves(&model.embeddings, dtype));
        Self { head, tied }
    }

    /// Without a graph.
    pub(super) fn valid(&self) -> Self {
        Self { head: self.head.valid(), tied: self.tied.as_ref().map(Module::valid) }
    }

    /// The output projection, `[vocab_size, d_model]`.
    pub(super) fn weight(&self) -> Tensor<2> {
        match (self.head.own_output_weight(), &self.tied) {
            (Some(weight), _) => weight,
            (None, Some(Embedding { weight })) => weight.val(),
            (None, None) => unreachable!("the head has a matrix of its own or the embedding's"),
        }
    }
}
