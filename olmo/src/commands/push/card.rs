//! A model card from what a run left: configuration, data, measurements, energy, and their curves.
//!
//! The Hub shows no SVG that stands in the text, so each curve is a file of its own beside it. A
//! checkpoint's card ends with its step, however far the run went on.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use olmo_hub::ModelFolder;
use olmo_hub::hub::Repo;
use serde_json::{Map, Value};

use crate::output;
use crate::page::chart::{Series, chart};

/// Rows of the table of measurements.
const ROWS: usize = 20;

/// What the card shows of each step, by OLMo's names.
const SHOWN: [&str; 4] = [
    "train/CrossEntropyLoss",
    "optim/total_grad_norm",
    "optim/learning_rate_group0",
    "throughput/total_tokens",
];

/// What is drawn: name of the file, title, metric.
const DRAWN: [(&str, &str, &str); 5] = [
    ("loss", "Cross-entropy, nats per token", "train/CrossEntropyLoss"),
    ("grad-norm", "Norm of the gradient", "optim/total_grad_norm"),
    ("learning-rate", "Learning rate", "optim/learning_rate_group0"),
    ("speed", "Tokens per second", "throughput/device/tokens_per_second"),
    ("power", "Power of the devices, watts", "energy/device_watts"),
];

/// A README.md, and the curves that it shows.
pub(crate) fn files(folder: &ModelFolder, repo: &Repo) -> Result<Vec<(String, Vec<u8>)>> {
    let mut curves = Vec::new();
    let text = text(folder, repo, &mut curves)?;
    let mut files = vec![("README.md".to_owned(), text.into_bytes())];
    files.append(&mut curves);
    Ok(files)
}

fn text(folder: &ModelFolder, repo: &Repo, curves: &mut Vec<(String, Vec<u8>)>) -> Result<String> {
    let config = folder.model_config();
    let mut text = String::new();
    let is_of_transformers = folder.config().family.is_some();
    let library = if is_of_transformers { "library_name: transformers\n" } else { "" };
    writeln!(text, "---\n{library}pipeline_tag: text-generation\ntags: [olmo]\n---\n")?;
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
    if !is_of_transformers {
        writeln!(
            text,
            "\nThe configuration is that of ai2-olmo's `hf_olmo`: no model type of transformers has this architecture."
        )?;
    }
    if let Some((run, step)) = run_of(folder.path()) {
        describe_run(&run, step, &mut text, curves)?;
    }
    writeln!(
        text,
        "\n## Use\n\n```sh\nolmo generate --model {repo} --prompt \"Once upon a time\"\n```"
    )?;
    Ok(text)
}

/// The folder of the run that a checkpoint is of, `RUN/checkpoints/NAME`, and its step, the last
/// where the name says none.
fn run_of(checkpoint: &Path) -> Option<(PathBuf, u64)> {
    let checkpoint = checkpoint.canonicalize().ok()?;
    let run = checkpoint.parent().filter(|parent| parent.ends_with("checkpoints"))?.parent()?;
    let name = checkpoint.file_name()?.to_str()?;
    let digits = name.split_once("step").map_or("", |(_, rest)| {
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
    });
    let step = digits.parse().unwrap_or(u64::MAX);
    run.join("metrics.jsonl").exists().then(|| (run.to_owned(), step))
}

fn describe_run(
    run: &Path,
    step: u64,
    text: &mut String,
    curves: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let mut metrics = read_metrics(&run.join("metrics.jsonl"));
    metrics.retain(|row| row.get("step").and_then(Value::as_u64).is_some_and(|at| at <= step));
    if let Some(last) = metrics.last() {
        writeln!(text, "\n## Training\n")?;
        for (file, title, metric) in DRAWN {
            let point = |row: &Map<String, Value>| {
                Some((row.get("step")?.as_f64()?, row.get(metric)?.as_f64()?))
            };
            let points: Vec<_> = metrics.iter().filter_map(point).collect();
            if points.is_empty() {
                continue;
            }
            let name = format!("curves/{file}.svg");
            let series = [Series { label: title, points }];
            let svg = chart(&series, |value| number(&value.into()));
            writeln!(text, "![{title}]({name})\n*{title}*\n")?;
            curves.push((name, svg.into_bytes()));
        }
        writeln!(text, "At the last step measured:\n\n| | |\n|---|---|")?;
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
        describe_energy(last, text)?;
    }
    if let Ok(config) = fs::read_to_string(run.join("config.yaml")) {
        writeln!(text, "\n## Configuration and data\n\n```yaml\n{}\n```", config.trim_end())?;
    }
    Ok(())
}

/// What the run drew up to this step, where it was measured.
fn describe_energy(last: &Map<String, Value>, text: &mut String) -> Result<()> {
    let Some(kwh) = last.get("energy/total_kWh").filter(|kwh| kwh.is_number()) else {
        return Ok(());
    };
    write!(text, "\n## Energy\n\nThe devices drew {} kWh", number(kwh))?;
    if let Some(co2) = last.get("energy/total_kgCO2e").filter(|co2| co2.is_number()) {
        write!(
            text,
            ", which are {} kg CO2e with the power usage effectiveness and the carbon intensity of \
             the configuration",
            number(co2)
        )?;
    }
    writeln!(text, ".")?;
    Ok(())
}

/// The steps of a run; a line that is cut short by a crash is left out.
fn read_metrics(path: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Whole numbers whole, others with five digits that count.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(real) if !value.is_u64() => {
            let size = real.abs();
            if size == 0.0 || (1e-3..1e5).contains(&size) {
                format!("{real:.5}")
            } else {
                format!("{real:.4e}")
            }
        }
        _ => value.to_string(),
    }
}
