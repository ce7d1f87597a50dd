//! A model card from what a run left: configuration, data, measurements and their curve.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use olmo_hub::ModelFolder;
use olmo_hub::hub::Repo;
use serde_json::{Map, Value};

use crate::commands::report::metric_chart;
use crate::commands::report::run::Run;
use crate::output;

/// Rows of the table of measurements.
const ROWS: usize = 20;

/// What the card shows of each step, by OLMo's names.
const SHOWN: [&str; 4] = [
    "train/CrossEntropyLoss",
    "optim/total_grad_norm",
    "optim/learning_rate_group0",
    "throughput/total_tokens",
];

/// The curve of the loss, beside the card that shows it.
const CURVE: &str = "loss.svg";

/// A README.md, and the curve that it shows where the folder is a run's checkpoint.
pub(crate) fn files(folder: &ModelFolder, repo: &Repo) -> Result<Vec<(String, Vec<u8>)>> {
    let curve = run_of(folder.path()).and_then(|run| Run::read(&run).ok()).map(|run| {
        let svg = metric_chart(&[run], "train/CrossEntropyLoss");
        (CURVE.to_owned(), svg.into_bytes())
    });
    let mut text = text(folder, repo)?;
    if curve.is_some() {
        writeln!(
            text,
            "\n## Loss\n\nCross-entropy in nats per token, by step:\n\n![loss]({CURVE})"
        )?;
    }
    let card = ("README.md".to_owned(), text.into_bytes());
    Ok(std::iter::once(card).chain(curve).collect())
}

/// The text of a README.md.
fn text(folder: &ModelFolder, repo: &Repo) -> Result<String> {
    let config = folder.model_config();
    let mut text = String::new();
    writeln!(
        text,
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [olmo]\n---\n"
    )?;
    writeln!(text, "# {}\n", repo.name())?;
    let n_parameters = output::scaled(config.n_parameters() as u64);
    writeln!(
        text,
        "A language model of the OLMo family with {n_parameters} parameters, trained with OLMo on burn.\n"
    )?;
    writeln!(text, "| | |\n|---|---|")?;
    let attention = &config.attention;
    for (name, value) in [
        ("layers", config.n_layers.to_string()),
        ("d_model", config.d_model.to_string()),
        ("heads", format!("{}, {} of keys and values", attention.n_heads, attention.n_kv_heads)),
        ("vocabulary", config.vocab_size.to_string()),
        ("context", format!("{} tokens", config.max_sequence_length)),
        ("dtype", folder.stored_dtype().to_string()),
    ] {
        writeln!(text, "| {name} | {value} |")?;
    }
    if let Some(run) = run_of(folder.path()) {
        describe_run(&run, &mut text)?;
    }
    writeln!(
        text,
        "\n## Use\n\n```sh\nolmo generate --model {repo} --prompt \"Once upon a time\"\n```"
    )?;
    Ok(text)
}

/// The folder of the run that a checkpoint is of: `RUN/checkpoints/NAME`.
fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let checkpoint = checkpoint.canonicalize().ok()?;
    let run = checkpoint.parent().filter(|parent| parent.ends_with("checkpoints"))?.parent()?;
    run.join("metrics.jsonl").exists().then(|| run.to_owned())
}

fn describe_run(run: &Path, text: &mut String) -> Result<()> {
    let metrics = read_metrics(&run.join("metrics.jsonl"));
    if let Some(last) = metrics.last() {
        writeln!(text, "\n## Training\n\nAt the last step measured:\n\n| | |\n|---|---|")?;
        for (name, value) in last.iter().filter(|(_, value)| value.is_number()) {
            writeln!(text, "| {name} | {} |", number(value))?;
        }
        writeln!(text, "\n| step | {} |\n|---|{}", SHOWN.join(" | "), "---|".repeat(SHOWN.len()))?;
        let every = metrics.len().div_ceil(ROWS).max(1);
        for (index, row) in metrics.iter().enumerate() {
            if index % every == 0 || index + 1 == metrics.len() {
                let cell = |name: &str| row.get(name).map_or("-".to_owned(), number);
                let cells: Vec<String> = SHOWN.iter().map(|name| cell(name)).collect();
                writeln!(text, "| {} | {} |", cell("step"), cells.join(" | "))?;
            }
        }
    }
    if let Ok(config) = fs::read_to_string(run.join("config.yaml")) {
        writeln!(text, "\n## Configuration and data\n\n```yaml\n{}\n```", config.trim_end())?;
    }
    Ok(())
}

/// The steps of a run; a line that is cut short by a crash is left out.
fn read_metrics(path: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(real) if !value.is_u64() => format!("{real:.5}"),
        _ => value.to_string(),
    }
}
