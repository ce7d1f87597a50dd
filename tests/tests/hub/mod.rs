//! The Hub, by a stand-in on 127.0.0.1.

mod pulls;
mod pushes;
mod python;
mod refusals;
mod waits;
mod xet;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use olmo_hub::hub::{self, HubError, Pull, Pulled, Repo, Settings};
use olmo_hub::{Conversion, Error, Form, ModelFolder, convert};
use olmo_tests::golden;
use olmo_tests::stand_in::StandIn;

pub(super) const REPO: &str = "allenai/OLMo-small";

pub(super) type Files = Vec<(String, Vec<u8>)>;

/// The files of a small model in many shards, with some that a model does not need.
pub(super) fn many_shards() -> Files {
    let folder = ModelFolder::open(golden("hf/olmo2")).expect("a golden folder");
    let scratch = tempfile::tempdir().expect("a folder");
    let conversion = Conversion { max_shard_bytes: 20_000, ..Conversion::to(Form::HuggingFace) };
    let out = scratch.path().join("model");
    convert(&folder, &conversion, &out, |_| ControlFlow::Continue(())).expect("converts");
    let mut files = files_of(&out);
    files.push(("README.md".to_owned(), b"# A model\n".to_vec()));
    files.push(("optimizer.bin".to_owned(), vec![1; 1000]));
    files
}

pub(super) fn files_of(dir: &Path) -> Files {
    let mut files: Files = fs::read_dir(dir)
        .expect("there")
        .map(|entry| entry.expect("listed"))
        .map(|entry| {
            let name = entry.file_name().into_string().expect("plain names");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

/// Large files, so that cuts come in their middle.
pub(super) fn large() -> Files {
    let content = |seed: u32, n: usize| -> Vec<u8> {
        (0..n as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
            .collect()
    };
    vec![
        ("config.json".to_owned(), b"{}".to_vec()),
        ("model-00001-of-00003.safetensors".to_owned(), content(1, 3_000_000)),
        ("model-00002-of-00003.safetensors".to_owned(), content(2, 2_000_000)),
        ("model-00003-of-00003.safetensors".to_owned(), content(3, 1_000_000)),
        ("model.safetensors.index.json".to_owned(), b"{ }".to_vec()),
    ]
}

pub(super) fn commit(hub: &StandIn, repo: &str, branch: &str, files: &Files) -> String {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    hub.commit(repo, branch, &files)
}

pub(super) fn settings(hub: &StandIn, cache: &Path) -> Settings {
    Settings {
        endpoint: hub.endpoint().to_owned(),
        cache: cache.to_owned(),
        token: None,
        offline: false,
        retry_delay: Duration::from_millis(1),
        n_workers: 3,
        xet: true,
    }
}

pub(super) fn pull(settings: &Settings, repo: &str) -> Result<Pulled, Error> {
    let repo: Repo = repo.parse().expect("a name");
    let stop = AtomicBool::new(false);
    hub::pull(&Pull { repo: &repo, settings, stop: &stop }, &|_| ())
}

pub(super) fn hub_error(result: Result<Pulled, Error>) -> HubError {
    match result {
        Err(Error::Hub(error)) => error,
        other => panic!("expected an error of the Hub, found {other:?}"),
    }
}

pub(super) fn assert_pulled(pulled: &Pulled, files: &Files) {
    for name in &pulled.files {
        let (_, expected) = files.iter().find(|(known, _)| known == name).expect("known");
        assert!(&fs::read(pulled.path.join(name)).expect(name) == expected, "{name} differs");
    }
}

/// The command, on the stand-in and this cache.
pub(super) fn olmo(hub: &StandIn, cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HUB_CACHE", cache)
        .env("HF_HOME", cache)
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The `olmo` command beside this test, built if need be.
pub(super) fn binary() -> PathBuf {
    let tests = std::env::current_exe().expect("this test");
    let profile = tests.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let name = format!("olmo{}", std::env::consts::EXE_SUFFIX);
    let path = profile.join(name);
    assert!(path.exists(), "{} is not there; run `cargo test --workspace`", path.display());
    path
}
