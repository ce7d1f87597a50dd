//! `kill -9` at any moment of training or saving: the same command goes on, and the weights at the
//! end are, to the last bit, those of a run that nothing disturbed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

#[cfg(unix)]
use olmo_tests::hearing;
use tempfile::TempDir;

/// Kills, unless `OLMO_KILLS` asks for another number.
const N_KILLS: u32 = 20;
const STEPS: u64 = 40;

/// A run that saves at every step and trains little, so that it is hit while it saves as often as not.
pub(crate) fn write_config(folder: &Path) -> PathBuf {
    let tokens: Vec<u8> =
        (0..64 * 16_u32).flat_map(|i| ((i * i * 7 + i * 3) as u16 % 61).to_le_bytes()).collect();
    fs::write(folder.join("tokens.npy"), tokens).unwrap();
    let yaml = format!(
        "
run_name: tiny
save_folder: {0}/run
model: {{preset: olmo2_1b, d_model: 32, n_layers: 2, vocab_size: 64, max_sequence_length: 16,
  attention: {{n_heads: 4, n_kv_heads: 2, head_dim: 8}}, feed_forward: {{kind: swiglu, hidden_size: 48}}}}
data: {{paths: [{0}/tokens.npy], sequence_length: 16}}
optimizer: {{learning_rate: 0.01}}
scheduler: {{name: cosine_with_warmup, t_warmup: 3}}
global_train_batch_size: 8
device_train_microbatch_size: 4
max_duration: {STEPS}
max_grad_norm: 1.0
save_interval: 7
save_interval_ephemeral: 1
save_num_checkpoints_to_keep: 2
",
        folder.display()
    );
    let path = folder.join("run.yaml");
    fs::write(&path, yaml).unwrap();
    path
}

fn start(config: &Path, overrides: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_olmo"))
        .args(["train", "--json"])
        .arg(config)
        .args(overrides)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The files of the last checkpoint, by name.
fn last_files(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let last = run.join("checkpoints/latest");
    let mut all = Vec::new();
    for folder in [last.clone(), last.join("train")] {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(&last).unwrap().to_owned();
                all.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// Random numbers of the test, the same each time.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Kills the process some steps after its start and some moment after that step. Gives the last step
/// that was printed, `None` where the run was done before.
fn kill_after(mut child: Child, random: &mut Xorshift) -> Option<u64> {
    let n_lines = random.below(4);
    let moment = Duration::from_micros(random.below(30_000));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = 0;
    for _ in 0..n_lines {
        let line: serde_json::Value = serde_json::from_str(&lines.next()?.unwrap()).unwrap();
        last = line["step"].as_u64().unwrap();
    }
    if n_lines == 0 {
        // Before the first step: while it starts, reads and checks the checkpoint.
        thread::sleep(Duration::from_micros(random.below(200_000)));
    }
    thread::sleep(moment);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    if status.success() { None } else { Some(last) }
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_bits() {
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [whole, killed] = folders.each_ref().map(|folder| write_config(folder.path()));
    assert!(start(&whole, &[]).wait_with_output().unwrap().status.success());

    let n_kills = std::env::var("OLMO_KILLS").map_or(N_KILLS, |n| n.parse().unwrap());
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    let (mut hits, mut rounds, mut leftovers) = (0, 0, 0);
    let run = folders[1].path().join("run");
    let checkpoints = run.join("checkpoints");
    while hits < n_kills {
        if kill_after(start(&killed, &[]), &mut random).is_some() {
            hits += 1;
            let entries = fs::read_dir(&checkpoints).into_iter().flatten();
            let is_temporary = |name: &str| name.starts_with(".tmp-olmo-");
            let mut names = entries.map(|entry| entry.unwrap().file_name());
            leftovers += u32::from(names.any(|name| is_temporary(name.to_str().unwrap())));
            // Whatever stands under `latest` is whole.
            if checkpoints.join("latest").exists() {
                olmo_train::checkpoint::check(&checkpoints.join("latest")).unwrap();
            }
        } else {
            // Done before it could be killed: what is there is compared, and a new run begun.
            assert!(last_files(&run) == last_files(&folders[0].path().join("run")));
            fs::remove_dir_all(&run).unwrap();
            rounds += 1;
        }
    }
    let output = start(&killed, &[]).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(last_files(&run) == last_files(&folders[0].path().join("run")), "the bits differ");
    eprintln!("{hits} kills, {leftovers} of them while saving; {rounds} runs were done before");

    // Each step stands once in the metrics, in order.
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=STEPS).collect::<Vec<_>>());
}

#[cfg(unix)]
#[test]
fn logits_that_are_given_up_leave_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let tokens = folder.path().join("tokens.json");
    fs::write(&tokens, serde_json::json!(vec![vec![5; 128]; 20_000]).to_string()).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/hf/olmo2-gqa");
    let child = hearing(&mut Command::new(env!("CARGO_BIN_EXE_olmo")))
        .args(["logits", "--model", model, "--tokens", tokens.to_str().unwrap(), "--out"])
        .arg(out.join("logits.safetensors"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once it is written to.
    let is_begun = || fs::read_dir(&out).unwrap().next().is_some();
    while !is_begun() {
        thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!is_begun(), "{message}");
}

/// As under `nohup`, whose reader has logged out; what is not ignored still ends the run.
#[cfg(unix)]
#[test]
fn a_signal_that_was_ignored_stays_so() {
    const N_MORE: usize = 50;
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let endless = ["max_duration=100000", "save_interval=100000", "save_interval_ephemeral=null"];
    let mut child = hearing(&mut Command::new("sh"))
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_olmo"), "train"])
        .arg("--json")
        .arg(config)
        .args(endless)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = child.id().to_string();
    let send = |signal: &str| {
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    lines.next().unwrap().unwrap();
    send("-HUP");
    assert_eq!(lines.by_ref().take(N_MORE).count(), N_MORE);
    send("-TERM");
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.matches("stopping;").count(), 1, "{message}");
}

#[cfg(unix)]
#[test]
fn a_request_to_terminate_saves() {
    let folder = TempDir::new().unwrap();
    let config = write_config(folder.path());
    let endless = ["max_duration=100000", "save_interval=100000", "save_interval_ephemeral=null"];
    let mut child = start(&config, &endless.map(String::from));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    // The pipe is read to its end, so that printing goes on.
    let last = lines.map(Result::unwrap).last().unwrap_or(first);
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert!(message.contains(&format!("stopped at step {}", last["step"])), "{message}");
    let latest = fs::canonicalize(folder.path().join("run/checkpoints/latest")).unwrap();
    let name = latest.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("step{}-", last["step"])), "{name}");
}
