//! What a model costs, from its description alone: nothing is allocated and nothing is read.
//!
//! Run: `cargo run --example architecture`

use olmo_model::{Costs, ModelConfig, presets};

fn main() -> anyhow::Result<()> {
    println!("{:<20} {:>15} {:>15} {:>12}", "preset", "parameters", "FLOPs/token", "f32 to train");
    for (name, config) in presets::all() {
        print_row(name, &config);
    }

    // An architecture of one's own is a preset with other numbers.
    let mut small = presets::olmo2_1b();
    small.n_layers = 8;
    small.attention.n_kv_heads = 4;
    small.weight_tying = true;
    small.validate()?;
    print_row("mine", &small);

    println!("\nthe parameters of its first block, as checkpoints name them:");
    for parameter in small.parameters().iter().filter(|p| p.layer == Some(0)) {
        println!("  {:<36} {:?}", parameter.path, parameter.shape);
    }

    // All problems are reported at once, each with what would work.
    small.attention.n_kv_heads = 3;
    small.n_layers = 0;
    if let Err(problems) = small.validate() {
        println!("\n{problems}");
    }
    Ok(())
}

fn print_row(name: &str, config: &ModelConfig) {
    let costs = Costs::new(config);
    println!(
        "{name:<20} {:>15} {:>15} {:>8.0} GiB",
        costs.n_parameters,
        costs.forward_flops_per_token,
        costs.train_bytes() as f64 / f64::from(1 << 30),
    );
}
