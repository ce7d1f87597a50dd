//! Loads a model folder and saves it again in another dtype and in files of another size.
//!
//! `cargo run -p olmo-hub --example resave -- IN OUT [f32|f16|bf16] [BYTES_PER_FILE]`
//!
//! What it writes can be checked against `transformers` by
//!
//! ```python
//! from transformers import AutoModelForCausalLM
//! model, info = AutoModelForCausalLM.from_pretrained("OUT", dtype="auto", output_loading_info=True)
//! assert not any(info.values()), info
//! ```

use std::env;
use std::error::Error;

use burn::tensor::Device;
use olmo_hub::{Dtype, HfExport, ModelFolder, save};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [source, target, rest @ ..] = arguments.as_slice() else {
        return Err("usage: resave IN OUT [f32|f16|bf16] [BYTES_PER_FILE]".into());
    };
    let folder = ModelFolder::open(source)?;
    let stored = folder.stored_dtype();
    let named = |name: &String| Dtype::ALL.into_iter().find(|dtype| dtype.to_string() == *name);
    let dtype = rest.first().map_or(Some(stored), named).ok_or("a dtype is f32, f16 or bf16")?;
    let model = folder.load(&Device::flex(), None)?;
    let mut export = HfExport::new(folder.special().clone(), dtype);
    if let Some(bytes) = rest.get(1) {
        export.max_shard_bytes = bytes.parse()?;
    }
    save(&model, &export, target)?;
    Ok(())
}
