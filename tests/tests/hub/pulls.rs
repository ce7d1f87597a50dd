//! Pulls that are cut, corrupted, interrupted, run side by side, and on a full disk.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use olmo_hub::hub::{self, Event, HubError, Pull, Repo, Settings};
use olmo_hub::{Conversion, Form, ModelFolder, convert, verify};
use olmo_tests::golden;
#[cfg(unix)]
use olmo_tests::hearing;
use olmo_tests::stand_in::{FaultKind, Logged, StandIn};

use super::{
    REPO, assert_pulled, commit, files_of, hub_error, large, many_shards, olmo, pull, settings,
};
use crate::faults::SmallDisk;

#[test]
fn a_pulled_model_is_the_one_that_was_there_and_is_not_fetched_again() {
    let (hub, cache, files) =
        (StandIn::start(), tempfile::tempdir().expect("a folder"), many_shards());
    hub.set_page(3);
    let sha = commit(&hub, REPO, "main", &files);
    let settings = settings(&hub, cache.path());
    let pulled = pull(&settings, REPO).expect("pulls");
    assert_eq!(pulled.commit, sha);
    assert!(pulled.files.len() > 8, "{:?}", pulled.files);
    for name in ["README.md", "optimizer.bin"] {
        assert!(!pulled.files.iter().any(|file| file == name), "{name} is not needed");
    }
    assert_pulled(&pulled, &files);
    let digest = |dir: &Path| verify(dir, |_| ()).expect("sound").digest.expect("whole");
    assert_eq!(digest(&pulled.path), digest(&golden("hf/olmo2")));
    hub.clear_log();
    assert_eq!(pull(&settings, REPO).expect("pulls").n_fetched, 0);
    assert_eq!(hub.n_sent(), 0);
    // The same without the Hub.
    let offline = Settings { offline: true, ..settings.clone() };
    hub.clear_log();
    assert_eq!(pull(&offline, REPO).expect("in the cache").path, pulled.path);
    assert!(hub.log().is_empty());
    let error = hub_error(pull(&offline, "allenai/other")).to_string();
    assert!(error.contains("not in the cache") && error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn ten_cuts_cost_no_more_than_a_chunk_each() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    commit(&hub, REPO, "main", &files);
    // Ten places by a fixed sequence, together less than the smallest shard: whichever replies they
    // fall on, each is cut.
    let mut place = 12_345_usize;
    for _ in 0..10 {
        place = place.wrapping_mul(1_103_515_245).wrapping_add(12_345) % 100_000;
        hub.fail("/cdn/", FaultKind::Cut(place), 1);
    }
    let pulled = pull(&settings(&hub, cache.path()), REPO).expect("pulls");
    assert_pulled(&pulled, &files);
    let n_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let is_file = |logged: &&Logged| logged.path.contains("/cdn/") && logged.method == "GET";
    let cuts = hub.log().iter().filter(is_file).count();
    assert_eq!(cuts, 3 + 10);
    // What was under way in a connection when it was cut may be lost, and is asked for again.
    let chunk = 1 << 16;
    assert!(hub.n_sent() <= n_bytes + 10 * chunk, "{} bytes for {n_bytes}", hub.n_sent());
    assert_eq!(pulled.n_fetched as usize, n_bytes);
}

#[test]
fn a_server_that_knows_no_ranges_and_one_that_hides_them_are_understood() {
    let files = large();
    let n_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let fetched = |kind: FaultKind, n_cuts: usize| {
        let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
        commit(&hub, REPO, "main", &files);
        hub.fail("/cdn/", FaultKind::Cut(500_000), n_cuts);
        hub.fail("/cdn/", kind, 1000);
        let settings = Settings { n_workers: 1, ..settings(&hub, cache.path()) };
        let pulled = pull(&settings, REPO).expect("pulls");
        assert_pulled(&pulled, &files);
        pulled.n_fetched as usize
    };
    assert_eq!(fetched(FaultKind::Whole, 0), n_bytes);
    // After the cut the file comes from its beginning.
    let again = fetched(FaultKind::Whole, 1) - n_bytes;
    assert!(again > 0 && again <= 500_000, "{again} bytes again");
    assert_eq!(fetched(FaultKind::LinkedSize, 1), n_bytes);
}

#[test]
fn wrong_bytes_are_fetched_again_and_then_refused_by_name() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    commit(&hub, REPO, "main", &files);
    let settings = settings(&hub, cache.path());
    hub.fail("/cdn/", FaultKind::Corrupt, 1);
    assert_pulled(&pull(&settings, REPO).expect("mended"), &files);
    // Another repository, whose first file stays wrong.
    commit(
        &hub,
        "allenai/bad",
        "main",
        &vec![files[0].clone(), files[1].clone(), files[4].clone()],
    );
    hub.fail("config.json", FaultKind::Corrupt, 2);
    let error = hub_error(pull(&settings, "allenai/bad"));
    assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("config.json of allenai/bad"), "{error}");
    // The cache is not the worse for it.
    assert_pulled(&pull(&settings, "allenai/bad").expect("mended"), &files);
}

#[test]
fn a_pull_that_was_stopped_goes_on_where_it_was() {
    let hub = StandIn::start();
    assert_goes_on_after_a_stop(&hub);
}

/// Stops a pull when a quarter is there; the next one fetches the rest.
pub(super) fn assert_goes_on_after_a_stop(hub: &StandIn) {
    let (cache, files) = (tempfile::tempdir().expect("a folder"), large());
    commit(hub, REPO, "main", &files);
    let settings = settings(hub, cache.path());
    let repo: Repo = REPO.parse().expect("a name");
    let (stop, n_there) = (AtomicBool::new(false), AtomicUsize::new(0));
    let events = |event: Event<'_>| {
        if let Event::Progress(_, n) = event
            && n_there.fetch_add(n.unsigned_abs() as usize, Ordering::Relaxed) > 1_500_000
        {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let error =
        hub_error(hub::pull(&Pull { repo: &repo, settings: &settings, stop: &stop }, &events));
    assert!(matches!(error, HubError::Stopped), "{error}");
    let pulled = pull(&settings, REPO).expect("goes on");
    assert_pulled(&pulled, &files);
    let n_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(
        (pulled.n_fetched as usize) < n_bytes - 1_000_000,
        "{} fetched again",
        pulled.n_fetched
    );
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_in_the_middle_of_a_file_and_the_next_run_goes_on() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    commit(&hub, REPO, "main", &files);
    // 200 kB a second: a machine that is busy elsewhere has fifteen seconds to interrupt.
    hub.fail("/cdn/", FaultKind::Slow(Duration::from_secs(1)), 3);
    let blobs = cache.path().join("models--allenai--OLMo-small/blobs");
    let on_disk = || -> u64 {
        let entries = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
    };
    let mut command = olmo(&hub, cache.path(), &["pull", REPO]);
    let child = hearing(&mut command).spawn().expect("starts");
    let start = Instant::now();
    while on_disk() < 100_000 {
        assert!(start.elapsed() < Duration::from_mins(2), "nothing came");
        sleep(Duration::from_millis(5));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill is there").success());
    let output = child.wait_with_output().expect("ends");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("what was fetched stays"), "{message}");
    let n_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let n_there = on_disk();
    assert!(n_there > 0 && n_there < n_bytes as u64 / 2, "{n_there} of {n_bytes}");
    hub.clear_log();
    let output = olmo(&hub, cache.path(), &["pull", REPO, "--json"]).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["bytes_fetched"], n_bytes as u64 - n_there);
    assert_eq!(hub.n_sent() as u64, n_bytes as u64 - n_there);
    assert_pulled(&pull(&settings(&hub, cache.path()), REPO).expect("there"), &files);
}

#[test]
fn two_at_once_do_each_others_work() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    commit(&hub, REPO, "main", &files);
    hub.fail("/cdn/", FaultKind::Delay(Duration::from_millis(50)), 4);
    // Two processes: file locks are between them.
    let run = || olmo(&hub, cache.path(), &["pull", REPO, "--json"]).spawn().expect("starts");
    let both = [run(), run()];
    for child in both {
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let n_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(hub.n_sent() <= n_bytes, "{} bytes for {n_bytes}", hub.n_sent());
    let pulled = pull(&settings(&hub, cache.path()), REPO).expect("there");
    assert_eq!(pulled.n_fetched, 0);
    assert_pulled(&pulled, &files);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_the_cache_usable() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!(
            "skipped: a_full_disk_is_an_error_that_leaves_the_cache_usable: needs privileges"
        );
        return;
    };
    let (hub, files) = (StandIn::start(), large());
    let small = vec![files[0].clone(), ("model.safetensors".to_owned(), vec![7; 100_000])];
    commit(&hub, "me/small", "main", &small);
    commit(&hub, "me/large", "main", &files);
    let settings = settings(&hub, disk.path());
    let first = pull(&settings, "me/small").expect("fits");
    let error = pull(&settings, "me/large").expect_err("does not fit").to_string();
    assert!(error.to_lowercase().contains("space"), "{error}");
    assert_pulled(&first, &small);
    let again = pull(&settings, "me/small").expect("usable");
    assert_eq!(again.n_fetched, 0);
}

#[test]
fn a_repository_is_a_model_wherever_a_folder_is() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    commit(&hub, REPO, "main", &many_shards());
    let tokens = cache.path().join("tokens.json");
    std::fs::write(&tokens, "[[1, 2, 3]]").expect("writes");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let run = |model: &str, offline: &str| {
        let arguments = ["generate", "--model", model, "--tokens", &text(&tokens), "--json"];
        let mut command = olmo(&hub, cache.path(), &arguments);
        let output = command.env("HF_HUB_OFFLINE", offline).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        value["tokens"].clone()
    };
    let expected = run(&text(&golden("hf/olmo2")), "0");
    assert_eq!(run("allenai/OLMo-small@main", "0"), expected);
    assert_eq!(run("allenai/OLMo-small", "1"), expected);
    let slip = olmo(&hub, cache.path(), &["model", "show", "allenai/OLMo-smal"]).output();
    let slip = slip.expect("runs");
    assert_eq!(slip.status.code(), Some(2));
    let message = String::from_utf8_lossy(&slip.stderr).into_owned();
    assert!(message.contains("did you mean allenai/OLMo-small"), "{message}");
}

#[test]
fn a_repository_of_the_old_layout_is_a_model_too() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    let dir = golden("original/olmo-tied-hf-olmo");
    let mut files = files_of(&dir);
    // What such a repository has besides.
    files.push(("modeling_olmo.py".to_owned(), b"import hf_olmo\n".to_vec()));
    files.push(("revisions.txt".to_owned(), b"step1000-tokens4B\n".to_vec()));
    commit(&hub, "allenai/OLMo-7B", "main", &files);
    let tokens = cache.path().join("tokens.json");
    std::fs::write(&tokens, "[[1, 2, 3], [50, 7, 9]]").expect("writes");
    let converted = cache.path().join("converted");
    let folder = ModelFolder::open(&dir).expect("a golden folder");
    let conversion = Conversion::to(Form::HuggingFace);
    convert(&folder, &conversion, &converted, |_| ControlFlow::Continue(())).expect("converts");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let run = |model: &str| {
        let arguments = ["generate", "--model", model, "--tokens", &text(&tokens), "--json"];
        let arguments = [&arguments[..], &["--temperature", "0", "--ignore-eos"]].concat();
        let output = olmo(&hub, cache.path(), &arguments).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        value["tokens"].clone()
    };
    let expected = run(&text(&converted));
    assert_eq!(run("allenai/OLMo-7B"), expected);
    assert!(expected[0].as_array().is_some_and(|row| row.len() > 3), "{expected}");
    let pulled = pull(&settings(&hub, cache.path()), "allenai/OLMo-7B").expect("there");
    assert_eq!(pulled.n_fetched, 0);
    assert_eq!(pulled.files, ["config.json", "pytorch_model.bin"]);
    let digest = |dir: &Path| verify(dir, |_| ()).expect("sound").digest.expect("whole");
    assert_eq!(digest(&pulled.path), digest(&converted));
}
