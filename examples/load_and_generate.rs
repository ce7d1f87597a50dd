//! A Hugging Face model folder, written, opened and sampled from.
//!
//! Here the weights are random; a folder that `transformers` saved, or a released OLMo or OLMo 2,
//! opens in the same way.
//!
//! Run: `cargo run --example load_and_generate`

use burn::tensor::Device;
use olmo_hub::{Dtype, HfExport, ModelFolder, Special};
use olmo_model::{InitConfig, Sampling, Transformer, presets};

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let folder = tempfile::tempdir()?;

    let config = presets::small_olmo2(32, 2, 4, 100);
    let model = Transformer::init(&config, &InitConfig::default(), 7, &device)?;
    let special = Special { bos_token_id: None, eos_token_id: vec![3], pad_token_id: Some(1) };
    // Files of at most 50 kB, in bf16: shards and their index, as large models have them.
    let export = HfExport { max_shard_bytes: 50_000, ..HfExport::new(special, Dtype::Bf16) };
    olmo_hub::save(&model, &export, folder.path())?;

    // Opening checks every name, shape and dtype; loading reads tensor by tensor.
    let opened = ModelFolder::open(folder.path())?;
    let files: Vec<_> = opened.file_names().collect();
    println!("{} in {files:?}", opened.stored_dtype());
    let model = opened.load_to_run(&device, Some(Dtype::F32))?;

    let prompt = [10, 11, 12];
    let greedy = model.generate(&prompt, Sampling::greedy())?.take(8);
    println!("greedy:  {:?}", greedy.collect::<Result<Vec<_>, _>>()?);
    for seed in 0..3 {
        let sampling = Sampling::top_p(0.9, 0.7).seed(seed);
        let tokens: Result<Vec<_>, _> = model.generate(&prompt, sampling)?.take(8).collect();
        println!("seed {seed}:  {:?}", tokens?);
    }

    // Bad input is an error that says what would work.
    if let Err(error) = model.generate(&[100], Sampling::greedy()) {
        println!("error: {error}");
    }
    Ok(())
}
