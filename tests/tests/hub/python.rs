//! The cache is shared with Python's `huggingface_hub`, and the stand-in speaks its protocol.
//!
//! `OLMO_REFERENCE_PYTHON` names a Python that has `huggingface_hub` and `transformers`.

use std::path::Path;
use std::process::Command;

use olmo_hub::hub::Settings;
use olmo_tests::stand_in::StandIn;

use super::{REPO, assert_pulled, commit, large, many_shards, pull, settings};

/// Runs a script on the stand-in and a cache, with or without Xet; its last line.
fn python(script: &str, hub: &StandIn, cache: &Path, xet: bool) -> Option<String> {
    let python = std::env::var("OLMO_REFERENCE_PYTHON").ok()?;
    let output = Command::new(python)
        .args(["-c", script])
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HUB_CACHE", cache)
        .env("HF_HOME", cache)
        .env("HF_HUB_DISABLE_XET", if xet { "0" } else { "1" })
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env_remove("HF_HUB_OFFLINE")
        .output()
        .expect("OLMO_REFERENCE_PYTHON runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Some(text.lines().last().unwrap_or_default().to_owned())
}

const SKIPPED: &str = "because OLMO_REFERENCE_PYTHON names no Python with huggingface_hub";

#[test]
fn what_python_put_in_the_cache_is_not_fetched_again() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    let files = many_shards();
    hub.set_page(4);
    commit(&hub, REPO, "main", &files);
    let script = "from huggingface_hub import snapshot_download\n\
                  print(snapshot_download('allenai/OLMo-small'))";
    let Some(path) = python(script, &hub, cache.path(), false) else {
        println!("skipped: what_python_put_in_the_cache_is_not_fetched_again, {SKIPPED}");
        return;
    };
    hub.clear_log();
    let settings = settings(&hub, cache.path());
    let pulled = pull(&settings, REPO).expect("there");
    assert_eq!((pulled.n_fetched, hub.n_sent()), (0, 0));
    assert_eq!(pulled.path, Path::new(&path));
    assert_pulled(&pulled, &files);
    pull(&Settings { offline: true, ..settings }, REPO).expect("there without the Hub");
}

#[test]
fn python_reads_the_store_of_chunks_of_the_stand_in() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    let files = large();
    hub.set_xet(900);
    commit(&hub, REPO, "main", &files);
    let script = "from huggingface_hub import snapshot_download\n\
                  print(snapshot_download('allenai/OLMo-small'))";
    let Some(_) = python(script, &hub, cache.path(), true) else {
        println!("skipped: python_reads_the_store_of_chunks_of_the_stand_in, {SKIPPED}");
        return;
    };
    let is_of = |path: &str| hub.log().iter().any(|logged| logged.path.contains(path));
    assert!(is_of("/xorbs/") && !is_of("/cdn/"), "{:?}", hub.log());
    // What came in chunks there is here what came whole.
    let pulled = pull(&settings(&hub, cache.path()), REPO).expect("there");
    assert_eq!(pulled.n_fetched, 0);
    assert_pulled(&pulled, &files);
}

#[test]
fn what_we_put_in_the_cache_is_used_by_python() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    commit(&hub, REPO, "main", &many_shards());
    let pulled = pull(&settings(&hub, cache.path()), REPO).expect("pulls");
    hub.clear_log();
    let script = "import os\n\
                  from huggingface_hub import snapshot_download\n\
                  path = snapshot_download('allenai/OLMo-small', local_files_only=True)\n\
                  from transformers import AutoModelForCausalLM\n\
                  os.environ['HF_HUB_OFFLINE'] = '1'\n\
                  AutoModelForCausalLM.from_pretrained('allenai/OLMo-small', local_files_only=True)\n\
                  print(path)";
    let Some(path) = python(script, &hub, cache.path(), false) else {
        println!("skipped: what_we_put_in_the_cache_is_used_by_python, {SKIPPED}");
        return;
    };
    assert_eq!(pulled.path, Path::new(&path));
    assert!(hub.log().is_empty(), "{:?}", hub.log());
}
