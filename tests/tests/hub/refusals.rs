//! What a user reads where the Hub says no.

use olmo_hub::hub::{self, Repo, Settings};
use olmo_tests::stand_in::{FaultKind, StandIn};

use super::{assert_pulled, commit, files_of, hub_error, large, pull, settings};

#[test]
fn refusals_say_what_to_do() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    for name in ["allenai/OLMo-gated", "me/private", "me/small-model", "me/old-name"] {
        commit(&hub, name, "main", &files);
    }
    commit(&hub, "me/nothing", "main", &vec![("README.md".to_owned(), vec![1])]);
    hub.set_token("secret");
    hub.close("allenai/OLMo-gated", true);
    hub.close("me/private", false);
    hub.rename("me/old-name", "me/new-name");
    let settings = settings(&hub, cache.path());
    let message = |repo: &str| hub_error(pull(&settings, repo)).to_string();
    let gated = message("allenai/OLMo-gated");
    assert!(gated.contains("accept its terms at") && gated.contains("HF_TOKEN"), "{gated}");
    let private = message("me/private");
    assert!(private.contains("or it is private") && private.contains("HF_TOKEN"), "{private}");
    let slip = message("me/small-modle");
    assert!(slip.contains("did you mean me/small-model"), "{slip}");
    let slip = message("allenai/OLMo-2-0425-1b");
    assert!(slip.contains("did you mean allenai/OLMo-2-0425-1B"), "{slip}");
    let revision = message("me/small-model@maine");
    assert!(revision.contains("no revision maine") && revision.contains("mean main"), "{revision}");
    let nothing = message("me/nothing");
    assert!(nothing.contains("no config.json") && nothing.contains("README.md"), "{nothing}");
    let moved = pull(&settings, "me/old-name").expect("moved");
    assert_pulled(&moved, &files);
    assert_eq!(moved.moved_to.as_deref(), Some("me/new-name"));
    let owner = message("em/small-model");
    assert!(owner.ends_with("did you mean me/small-model?"), "{owner}");
    // A token that the Hub does not know is not called a lack of the repository.
    let stranger = Settings { token: Some("wrong".to_owned()), ..settings.clone() };
    let stranger = hub_error(pull(&stranger, "me/small-model")).to_string();
    assert!(stranger.contains("Invalid credentials") && stranger.contains("a token"), "{stranger}");
    let offline = Settings { offline: true, ..settings.clone() };
    let repo: Repo = "me/small-model".parse().expect("a name");
    hub.clear_log();
    let offline = hub::checkpoints(&repo, &offline).expect_err("offline").to_string();
    assert!(offline.contains("HF_HUB_OFFLINE") && hub.log().is_empty(), "{offline}");
    // The token opens what is closed, and goes to nobody but the Hub.
    let trusted = Settings { token: Some("secret".to_owned()), ..settings.clone() };
    hub.clear_log();
    assert_pulled(&pull(&trusted, "me/private").expect("trusted"), &files);
    let at_storage = |path: &str| path.starts_with("/cdn/");
    assert!(hub.log().iter().all(|logged| logged.has_token != at_storage(&logged.path)));
    assert!(hub.log().iter().any(|logged| at_storage(&logged.path)));
    // A busy Hub is asked again; one that stays so is an error that says how often.
    hub.fail("/revision/", FaultKind::Status(429), 3);
    hub.fail("/tree/", FaultKind::Status(503), 2);
    pull(&settings, "me/small-model").expect("in the end");
    hub.fail("/revision/", FaultKind::Status(500), 5);
    let error = hub_error(pull(&settings, "me/small-model"));
    assert!(error.is_machine() && error.to_string().contains("after 5 attempts"), "{error}");
    hub.fail("/revision/", FaultKind::Status(403), 1);
    let error = hub_error(pull(&settings, "me/small-model")).to_string();
    assert!(error.contains("status 403"), "{error}");
}

/// Names of branches and commits become names of files in the cache.
#[test]
fn a_branch_or_commit_that_would_lead_out_of_the_cache_is_refused() {
    let (hub, scratch, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    let sound = commit(&hub, "me/model", "step1000-tokens4B", &files);
    let cache = scratch.path().join("cache");
    let settings = settings(&hub, &cache);
    let answered = |name: &str, commit: &str| {
        let refs = format!(
            r#"{{"branches":[{{"name":{name:?},"ref":"refs/heads/x","targetCommit":{commit:?}}}],"converts":[],"tags":[]}}"#
        );
        hub.answer_with("/refs", refs.as_bytes());
        let error = hub_error(pull(&settings, "me/model@step1000"));
        assert!(error.is_machine(), "{error}");
        error.to_string()
    };
    for name in
        ["step1000-/../../../../out", "step1000-/../../x", "step1000-\\..\\x", "step1000- x"]
    {
        let error = answered(name, &sound);
        assert!(error.contains("is no name that a branch or tag could have"), "{error}");
    }
    for commit in ["../../../out", "/tmp/out", "", &sound[..39], &sound.to_uppercase()] {
        let error = answered("step1000-tokens4B", commit);
        assert!(
            error.contains(&format!("{commit:?}, where it has step1000-tokens4B at, is no commit")),
            "{error}"
        );
    }
    assert!(!cache.exists() && files_of(scratch.path()).is_empty());
    hub.answer_with("", b"");
    let pulled = pull(&settings, "me/model@step1000").expect("sound");
    assert_eq!((pulled.revision.as_str(), pulled.commit), ("step1000-tokens4B", sound));
}
