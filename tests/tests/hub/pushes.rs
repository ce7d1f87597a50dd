//! Revisions, and what is sent to the Hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use olmo_hub::hub::{self, Filter, Push, Repo, Settings};
use olmo_hub::verify;
use olmo_tests::golden;
use olmo_tests::stand_in::{FaultKind, StandIn};

use super::{REPO, commit, files_of, large, olmo, pull, settings};

#[test]
fn revisions_are_listed_sorted_and_found_by_their_beginning() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    for branch in ["main", "step2000-tokens8B", "step1000-tokens4B", "stage1-step500-tokens2B"] {
        commit(&hub, REPO, branch, &files);
    }
    let settings = settings(&hub, cache.path());
    let repo: Repo = REPO.parse().expect("a name");
    let all = hub::checkpoints(&repo, &settings).expect("listed");
    let names = |all: &[hub::Checkpoint]| -> Vec<String> {
        all.iter().map(|found| found.revision.clone()).collect()
    };
    assert_eq!(names(&all), ["step1000-tokens4B", "step2000-tokens8B", "stage1-step500-tokens2B"]);
    let late = Filter { from: Some(1500), ..Filter::default() };
    assert_eq!(names(&late.apply(all.clone())), ["step2000-tokens8B"]);
    let pulled = pull(&settings, "allenai/OLMo-small@step1000").expect("unique");
    assert_eq!(pulled.revision, "step1000-tokens4B");
    assert_eq!(pulled.commit, all[0].commit);
    let output =
        olmo(&hub, cache.path(), &["revisions", REPO, "--to", "1000"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("step1000-tokens4B") && !text.contains("step2000"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_name_that_the_hub_cannot_have_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let (hub, dir) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
    std::fs::write(dir.path().join(name), "text").expect("written");
    let settings = settings(&hub, dir.path());
    let repo: Repo = "me/pushed".parse().expect("a name");
    let request = Push {
        repo: &repo,
        settings: &settings,
        dir: dir.path(),
        extra: &[],
        message: "m",
        private: true,
    };
    let error = request.plan().expect_err("no text").to_string();
    assert!(error.contains("UTF-8") && error.contains("caf"), "{error}");
}

#[test]
fn what_is_pushed_can_be_pulled() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    hub.set_token("secret");
    hub.set_part_size(20_000);
    let dir = golden("hf/olmo2");
    let settings = Settings { token: Some("secret".to_owned()), ..settings(&hub, cache.path()) };
    let repo: Repo = "me/pushed@step1".parse().expect("a name");
    let extra = [("README.md", "# pushed\n"), ("run.log", "ignored there")]
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let request = Push {
        repo: &repo,
        settings: &settings,
        dir: &dir,
        extra: &extra,
        message: "m",
        private: true,
    };
    // The third part fails for good; what was sent whole is not sent again.
    hub.fail("/storage/", FaultKind::Status(500), 2);
    let pushed = hub::push(&request, |_| ()).expect("pushed");
    assert_eq!(pushed.ignored, ["run.log"]);
    let mut expected = files_of(&dir);
    expected.push(extra[0].clone());
    let there = hub.files("me/pushed", "step1");
    for (name, bytes) in &expected {
        let (_, found) = there.iter().find(|(known, _)| known == name).expect(name);
        assert!(found == bytes, "{name} differs");
    }
    assert!(pushed.n_sent > 20_000, "{}", pushed.n_sent);
    assert_eq!(hub::push(&request, |_| ()).expect("again").n_sent, 0);
    let pulled = pull(&settings, "me/pushed@step1").expect("pulls");
    let digest = |dir: &Path| verify(dir, |_| ()).expect("sound").digest;
    assert_eq!(digest(&pulled.path), digest(&dir));
    let stranger = Settings { token: None, ..settings.clone() };
    let refused =
        hub::push(&Push { settings: &stranger, ..request }, |_| ()).expect_err("no token");
    assert!(refused.to_string().contains("HF_TOKEN"), "{refused}");
}

/// A folder with a large file of ten parts, and a Hub that takes it by 100 kB.
fn in_ten_parts() -> (StandIn, tempfile::TempDir, PathBuf) {
    let (hub, scratch) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    hub.set_token("secret");
    hub.set_part_size(100_000);
    let dir = scratch.path().join("model");
    std::fs::create_dir(&dir).expect("creates");
    for (name, bytes) in large().into_iter().filter(|(name, _)| name.starts_with("model-00003")) {
        std::fs::write(dir.join(name), &bytes).expect("writes");
    }
    (hub, scratch, dir)
}

/// How often each part of each upload was sent and taken, `partNumber=3&uploadId=upload1`.
fn parts_taken(hub: &StandIn) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for logged in hub.log().iter().filter(|logged| logged.status == 200) {
        if let Some(part) = logged.path.split('?').nth(1).filter(|part| part.contains("uploadId")) {
            *counts.entry(part.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn assert_pushed(hub: &StandIn, repo: &str, dir: &Path) {
    let there = hub.files(repo, "main");
    for (name, bytes) in files_of(dir) {
        assert!(there.iter().any(|(known, found)| *known == name && *found == bytes), "{name}");
    }
}

#[test]
fn a_push_that_was_cut_goes_on_with_the_parts_that_are_missing() {
    let (hub, scratch, dir) = in_ten_parts();
    let settings = Settings { token: Some("secret".to_owned()), ..settings(&hub, scratch.path()) };
    let push = |name: &str| {
        let repo: Repo = name.parse().expect("a name");
        let (settings, dir) = (&settings, dir.as_path());
        let request = Push { repo: &repo, settings, dir, extra: &[], message: "m", private: false };
        let mut told = 0;
        hub::push(&request, |n| told += n).map(|pushed| (pushed.n_sent, told))
    };
    hub.fail("partNumber=4&", FaultKind::Status(503), 5);
    let error = push("me/cut").expect_err("the fourth part fails").to_string();
    assert!(error.contains("after 5 attempts"), "{error}");
    assert_eq!(push("me/cut").expect("goes on"), (700_000, 1_000_000));
    let once = (1..=10).map(|part| (format!("partNumber={part}&uploadId=upload1"), 1));
    assert_eq!(parts_taken(&hub), once.collect());
    assert_pushed(&hub, "me/cut", &dir);
    // It is the same content, which the Hub has; nothing of the upload is left behind.
    assert_eq!(push("me/other").expect("known").0, 0);
    let left = std::fs::read_dir(scratch.path().join(".olmo-uploads")).expect("there");
    assert_eq!(left.count(), 0);
}

#[test]
fn an_upload_that_the_storage_has_forgotten_begins_again() {
    let (hub, scratch, dir) = in_ten_parts();
    let settings = Settings { token: Some("secret".to_owned()), ..settings(&hub, scratch.path()) };
    let repo: Repo = "me/late".parse().expect("a name");
    let request = Push {
        repo: &repo,
        settings: &settings,
        dir: &dir,
        extra: &[],
        message: "m",
        private: false,
    };
    hub.fail("partNumber=4&", FaultKind::Status(503), 5);
    hub::push(&request, |_| ()).expect_err("the fourth part fails");
    hub.forget_uploads();
    assert_eq!(hub::push(&request, |_| ()).expect("begins again").n_sent, 1_000_000);
    assert_pushed(&hub, "me/late", &dir);
}

#[test]
fn a_push_whose_process_was_killed_goes_on() {
    let (hub, scratch, _) = in_ten_parts();
    let dir = golden("hf/olmo2");
    hub.set_part_size(10_000);
    let repo = "me/killed";
    let push = || {
        let arguments = ["push", dir.to_str().expect("UTF-8"), repo];
        let mut command = olmo(&hub, scratch.path(), &arguments);
        command.env("HF_TOKEN", "secret");
        command
    };
    // The fourth part comes once the third is noted, and is answered long after the process's end.
    hub.fail("partNumber=4&", FaultKind::Delay(Duration::from_secs(20)), 1);
    let mut child = push().spawn().expect("starts");
    let start = Instant::now();
    while hub.n_faults_left() > 0 {
        assert!(start.elapsed() < Duration::from_mins(2), "no parts came");
        sleep(Duration::from_millis(10));
    }
    child.kill().expect("is there");
    child.wait().expect("ends");
    let output = push().output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts = parts_taken(&hub);
    assert!(counts.len() > 5, "{counts:?}");
    // The fourth was under way, and nobody knows whether it was taken.
    let is_once =
        |(part, count): (&String, &usize)| *count == 1 || part == "partNumber=4&uploadId=upload1";
    assert!(counts.iter().all(is_once), "{counts:?}");
    assert_pushed(&hub, repo, &dir);
}
