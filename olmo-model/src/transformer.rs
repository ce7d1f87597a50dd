//! The model: embedding, blocks, head.

use std::ops::Range;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::attention::{Attention, AttentionShape};
use crate::block::{Block, BlockFeedForward};
use crate::cache::KvCache;
use crate::config::{FeedForwardConfig, ModelConfig};
use crate::dtype::check_dtype;
use crate::error::Error;
use crate::feed_forward::FeedForward;
use crate::linear::{Embedding, Linear, Matrix, MatrixForm};
use crate::moe::MixtureOfExperts;
use crate::norm::Norm;
use crate::packed::PackedMatrix;
use crate::parameters::Parameter;
use crate::quantized::Quantization;
use crate::rope::Positions;

/// A decoder-only transformer of the OLMo family.
///
/// Module paths are OLMo-core's names, so a path is a checkpoint key; see
/// [`ModelConfig::parameters`].
#[derive(Module, Debug)]
pub struct Transformer {
    /// Token embedding.
    pub embeddings: Embedding,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// Final norm and output projection.
    pub lm_head: LmHead,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    form: MatrixForm,
}

/// The final norm and the projection to the vocabulary.
#[derive(Module, Debug)]
pub struct LmHead {
    /// Norm of the last block's output.
    pub norm: Norm,
    /// Output projection, `[vocab_size, d_model]`; `None` where it is the embedding matrix.
    pub w_out: Option<Linear>,
}

impl Transformer {
    /// Builds a model from a source of values, asked once for each parameter in module order.
    ///
    /// A parameter takes the dtype of its value. Nothing else is allocated, so a checkpoint can be
    /// read tensor by tensor. This is the model to train; to run one is faster as
    /// [`build_as`](Self::build_as) with [`MatrixForm::Packed`].
    ///
    /// # Errors
    ///
    /// Whatever `source` returns, and [`Error::Config`] where the configuration is unsound;
    /// [`Error::Dtype`] where the device does not compute in the dtype of a value.
    ///
    /// # Panics
    ///
    /// When `source` returns a value of another shape than it was asked for.
    pub fn build<E: From<Error>>(
        config: &ModelConfig,
        device: &Device,
        mut source: impl FnMut(&Parameter) -> Result<TensorData, E>,
    ) -> Result<Self, E> {
        Self::build_as(config, device, MatrixForm::Dense, |parameter, _| source(parameter))
    }

    /// As [`build`](Self::build), with matrices in another form than they come in.
    ///
    /// Those that change their form are asked for in parts, so that never more than a few megabytes
    /// of a matrix are there twice: `source` gets a parameter and the range of its first dimension.
    /// The others are asked for whole.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`Error::Quantization`].
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    pub fn build_as<E: From<Error>>(
        config: &ModelConfig,
        device: &Device,
        form: MatrixForm,
        source: impl FnMut(&Parameter, Range<usize>) -> Result<TensorData, E>,
    ) -> Result<Self, E> {
        config.validate().map_err(Error::from)?;
        let parameters = config.parameters();
        let parameters = parameters.into_iter();
        let widened = form == MatrixForm::Widened;
        let form = form.on(device);
        Builder { config, device, form, widened, source, parameters }.transformer()
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How the matrices are held; in another form than [`MatrixForm::Dense`] they are no parameters,
    /// and the model can only be run.
    pub fn form(&self) -> MatrixForm {
        self.form
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.embeddings.weight.device()
    }

    /// The dtype of the weights, and of activations; f32 where weights are quantised.
    pub fn dtype(&self) -> DType {
        self.embeddings.weight.dtype()
    }

    /// The dtype that keys and values are kept in: the model's, or f16 where matrices are quantised,
    /// whose error is far above what f16 rounds off.
    pub fn cache_dtype(&self) -> DType {
        match self.form {
            MatrixForm::Quantized(_) => DType::F16,
            _ => self.dtype(),
        }
    }

    /// An empty cache for `batch` sequences of up to `capacity` tokens.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(&self.config, batch, capacity, &self.device(), self.cache_dtype())
    }

    /// Logits of the token after each token.
    ///
    /// With a cache, `tokens` continue the sequences it holds, and are added to it.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, seq]`, ids below `vocab_size`
    /// - output: `[batch, seq, vocab_size]`, in the dtype of the weights
    ///
    /// # Errors
    ///
    /// [`Error::SequenceTooLong`] where the tokens do not fit the cache.
    ///
    /// # Panics
    ///
    /// Where a token is not below `vocab_size` ([`check_tokens`](Self::check_tokens) says so before), and
    /// where the cache is for another number of rows.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor<3>, Error> {
        Ok(self.logits(self.hidden(tokens, cache)?))
    }

    /// The last block's output, before the final norm: `[batch, seq, d_model]`.
    ///
    /// # Errors
    ///
    /// [`Error::SequenceTooLong`] where the tokens do not fit the cache.
    ///
    /// # Panics
    ///
    /// Where a token is not below `vocab_size` ([`check_tokens`](Self::check_tokens) says so before), and
    /// where the cache is for another number of rows.
    pub fn hidden(
        &self,
        tokens: Tensor<2, Int>,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor<3>, Error> {
        let [_, seq] = tokens.dims();
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        if let Some(cache) = &mut cache {
            cache.reserve(seq)?;
        }
        let padding = cache.as_ref().and_then(|cache| cache.padding());
        let range = start..start + seq;
        let positions = Positions::of_rows(&self.config, range, padding, &tokens.device());
        let mut x = self.embeddings.forward(tokens);
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &positions, cache.as_mut().map(|cache| cache.layer(layer)));
        }
        Ok(x)
    }

    /// Final norm and output projection: `[batch, seq, d_model]` to `[batch, seq, vocab_size]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.output().apply(hidden, Some(&self.lm_head.norm))
    }

    /// The output projection, `[vocab_size, d_model]`: with tied weights the embedding matrix.
    pub fn output_weight(&self) -> Tensor<2> {
        self.output().val()
    }

    pub(crate) fn output(&self) -> &Matrix {
        match &self.lm_head.w_out {
            Some(w_out) => &w_out.weight,
            None => &self.embeddings.weight,
        }
    }
}

/// Assembles a model from parameters that arrive in the order of [`ModelConfig::parameters`].
struct Builder<'a, S> {
    config: &'a ModelConfig,
    device: &'a Device,
    form: MatrixForm,
    /// Whether values may come in a narrower dtype than the f32 that is computed in.
    widened: bool,
    source: S,
    parameters: std::vec::IntoIter<Parameter>,
}

impl<E: From<Error>, S: FnMut(&Parameter, Range<usize>) -> Result<TensorData, E>> Builder<'_, S> {
    fn transformer(mut self) -> Result<Transformer, E> {
        let embeddings = Embedding { weight: self.matrix()? };
        let blocks =
            (0..self.config.n_layers).map(|layer| self.block(layer)).collect::<Result<_, E>>()?;
        let norm = self.norm()?;
        let w_out = if self.config.weight_tying { None } else { Some(self.linear()?) };
        let lm_head = LmHead { norm, w_out };
        let (config, form) = (self.config.clone(), self.form);
        Ok(Transformer { embeddings, blocks, lm_head, config, form })
    }

    fn block(&mut self, layer: usize) -> Result<Block, E> {
        Ok(Block {
            attention: self.attention(layer)?,
            attention_norm: self.norm()?,
            feed_forward: match self.config.feed_forward {
                FeedForwardConfig::Swiglu { .. } => BlockFeedForward::Swiglu(self.swiglu()?),
                FeedForwardConfig::Experts { n_experts, top_k, normalize_top_k, .. } => {
                    let experts =
                        (0..n_experts).map(|_| self.swiglu()).collect::<Result<_, E>>()?;
                    let router = self.linear()?;
                    let layer = MixtureOfExperts { experts, router, top_k, normalize_top_k };
                    BlockFeedForward::Experts(layer)
                }
            },
            feed_forward_norm: self.norm()?,
            norm_placement: self.config.norm_placement,
        })
    }

    fn attention(&mut self, layer: usize) -> Result<Attention, E> {
        let attention = &self.config.attention;
        let shape = AttentionShape {
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            clip_qkv: attention.clip_qkv,
            window: self.config.window(layer),
            rope_full_precision: attention.rope.full_precision,
        };
        let (w_q, w_k) = (self.linear()?, self.linear()?);
        let (w_v, w_out) = (self.linear()?, self.linear()?);
        let qk_norm = attention.qk_norm;
        let q_norm = qk_norm.then(|| self.norm()).transpose()?;
        let k_norm = qk_norm.then(|| self.norm()).transpose()?;
        Ok(Attention { w_q, w_k, w_v, w_out, q_norm, k_norm, shape })
    }

    fn swiglu(&mut self) -> Result<FeedForward, E> {
        Ok(FeedForward { w1: self.linear()?, w2: self.linear()?, w3: self.linear()? })
    }

    fn linear(&mut self) -> Result<Linear, E> {
        Ok(Linear { weight: self.matrix()? })
    }

    fn matrix(&mut self) -> Result<Matrix, E> {
        let parameter = self.next();
        let form = self.form.of(&parameter, self.config);
        match form {
            MatrixForm::Dense => Ok(Matrix::Dense(self.dense(&parameter)?)),
            MatrixForm::Packed | MatrixForm::Widened => self.packed(&parameter, None),
            MatrixForm::Quantized(quantization) => self.packed(&parameter, Some(quantization)),
        }
    }

    fn packed(
        &mut self,
        parameter: &Parameter,
        quantization: Option<Quantization>,
    ) -> Result<Matrix, E> {
        let (shape, device) = ([parameter.shape[0], parameter.shape[1]], self.device);
        let widened = self.widened;
        let read = |rows| self.read(parameter, rows);
        Ok(Matrix::Packed(PackedMatrix::from_parts(shape, quantization, widened, device, read)?))
    }

    fn norm(&mut self) -> Result<Norm, E> {
        let weight = match self.config.norm {
            crate::config::NormConfig::RmsNorm { .. } => Some(self.vector()?),
            crate::config::NormConfig::LayerNorm { .. } => None,
        };
        Ok(Norm::new(self.config.norm, weight))
    }

    fn vector(&mut self) -> Result<Param<Tensor<1>>, E> {
        let parameter = self.next();
        self.dense(&parameter)
    }

    /// The next parameter of the listing.
    fn next(&mut self) -> Parameter {
        self.parameters.next().expect("the builder takes what the listing lists")
    }

    /// A part of the first dimension of a parameter.
    fn read(&mut self, parameter: &Parameter, rows: Range<usize>) -> Result<TensorData, E> {
        let mut shape = parameter.shape.clone();
        shape[0] = rows.len();
        let data = (self.source)(parameter, rows)?;
        assert_eq!(data.shape().as_slice(), shape, "the value of {}", parameter.path);
        Ok(data)
    }

    fn dense<const D: usize>(&mut self, parameter: &Parameter) -> Result<Param<Tensor<D>>, E> {
        let mut data = self.read(parameter, 0..parameter.shape[0])?;
        if self.widened {
            data = data.convert_dtype(DType::F32);
        }
        let dtype = data.dtype();
        check_dtype(self.device, dtype)?;
        let value = Tensor::from_data(data, (self.device, dtype));
        Ok(Param::initialized(ParamId::new(), value))
    }
}
