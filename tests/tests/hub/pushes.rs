//! Revisions, and what is sent to the Hub.

use std::path::Path;

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

#[test]
fn what_is_pushed_can_be_pulled() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    hub.set_token("secret");
    hub.set_part_size(20_000);
    let dir = golden("hf/olmo2");
    let settings = Settings { token: Some("secret".to_owned()), ..settings(&hub, cache.path()) };
    let repo: Repo = "me/pushed@step1".parse().expect("a name");
    let extra = [("README.md".to_owned(), b"# pushed\n".to_vec())];
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
