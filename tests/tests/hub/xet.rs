//! Pulls by Xet: from the store of chunks, cut, corrupted, stopped, refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use olmo_hub::hub::{self, HubError, Pull, Repo, Settings};
use olmo_tests::stand_in::{FaultKind, Logged, StandIn};

use super::pulls::assert_goes_on_after_a_stop;
use super::{Files, REPO, assert_pulled, commit, hub_error, large, pull, settings};

/// Xorbs of the large files here, a megabyte each at most.
const N_XORBS: usize = 3 + 2 + 1;

/// A Hub with a store of chunks, and the large files in a model there.
fn in_chunks() -> (StandIn, tempfile::TempDir, Files) {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    hub.set_xet(900);
    commit(&hub, REPO, "main", &files);
    (hub, cache, files)
}

/// Requests that something was sent for; `hf-hub` asks for a file's head before it asks for the file.
fn n_requests(hub: &StandIn, path: &str) -> usize {
    let is_of = |logged: &&Logged| logged.path.contains(path) && logged.method != "HEAD";
    hub.log().iter().filter(is_of).count()
}

fn n_bytes(files: &Files) -> usize {
    files.iter().map(|(_, bytes)| bytes.len()).sum()
}

#[test]
fn a_model_comes_in_chunks_and_the_token_goes_to_the_hub_alone() {
    let (hub, cache, files) = in_chunks();
    hub.set_token("secret");
    hub.close(REPO, false);
    let settings = Settings { token: Some("secret".to_owned()), ..settings(&hub, cache.path()) };
    let pulled = pull(&settings, REPO).expect("pulls");
    assert_pulled(&pulled, &files);
    assert_eq!(pulled.n_fetched as usize, n_bytes(&files));
    assert_eq!((n_requests(&hub, "/xorbs/"), n_requests(&hub, "/cdn/")), (N_XORBS, 0));
    // The store has a token of its own, which the stand-in compares, and a xorb's address is signed.
    let of_xorbs = |path: &str| path.starts_with("/xorbs/");
    assert!(hub.log().iter().all(|logged| logged.has_token != of_xorbs(&logged.path)));
    // Nothing is told to the store but what is asked for.
    let asks = |logged: &Logged| ["GET", "HEAD"].contains(&logged.method.as_str());
    assert!(hub.log().iter().all(asks), "{:?}", hub.log());
    assert_eq!(n_requests(&hub, "/xet-read-token/"), 1);
    // The cache has what it has without the store.
    let names = std::fs::read_dir(cache.path())
        .expect("there")
        .map(|entry| entry.expect("listed").file_name().into_string().expect("plain names"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, [".locks", "models--allenai--OLMo-small"]);
    hub.clear_log();
    assert_eq!(pull(&settings, REPO).expect("there").n_fetched, 0);
    assert_eq!(n_requests(&hub, "/xet-read-token/"), 0);
}

#[test]
fn ten_cuts_cost_no_more_than_a_xorb_each() {
    let (hub, cache, files) = in_chunks();
    let mut place = 12_345_usize;
    for _ in 0..10 {
        place = place.wrapping_mul(1_103_515_245).wrapping_add(12_345) % 100_000;
        hub.fail("/xorbs/", FaultKind::Cut(place), 1);
    }
    assert_pulled(&pull(&settings(&hub, cache.path()), REPO).expect("pulls"), &files);
    assert_eq!(n_requests(&hub, "/xorbs/"), N_XORBS + 10);
}

#[test]
fn a_store_that_fails_for_long_is_asked_again_from_where_it_was() {
    let (hub, cache, files) = in_chunks();
    // Often enough that the client of the store gives up: the download itself goes on.
    hub.fail("/1?X-Amz-Signature", FaultKind::Status(503), 1000);
    let error = hub_error(pull(&settings(&hub, cache.path()), REPO));
    assert!(matches!(error, HubError::Network { attempts: 5, .. }), "{error}");
    let n_asked = n_requests(&hub, "/1?X-Amz-Signature");
    assert!(n_asked > 5, "{n_asked}");
    hub.mend();
    hub.clear_log();
    assert_pulled(&pull(&settings(&hub, cache.path()), REPO).expect("in the end"), &files);
    // The first xorbs were there already.
    assert_eq!(n_requests(&hub, "/0?X-Amz-Signature"), 0, "{:?}", hub.log());
}

#[test]
fn wrong_chunks_are_fetched_again_and_then_refused_by_name() {
    let (hub, cache, files) = in_chunks();
    let settings = settings(&hub, cache.path());
    hub.fail("/xorbs/", FaultKind::Corrupt, 1);
    assert_pulled(&pull(&settings, REPO).expect("mended"), &files);
    let one = vec![files[0].clone(), ("model.safetensors".to_owned(), vec![7; 100_000])];
    commit(&hub, "allenai/bad", "main", &one);
    hub.fail("/xorbs/", FaultKind::Corrupt, 2);
    let error = hub_error(pull(&settings, "allenai/bad"));
    assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors of allenai/bad"), "{error}");
    assert_pulled(&pull(&settings, "allenai/bad").expect("mended"), &one);
}

#[test]
fn a_pull_in_chunks_that_was_stopped_goes_on_where_it_was() {
    let hub = StandIn::start();
    hub.set_xet(900);
    assert_goes_on_after_a_stop(&hub);
    assert!(n_requests(&hub, "/xorbs/") >= N_XORBS);
}

#[test]
fn a_stop_does_not_wait_for_a_store_that_is_silent() {
    let (hub, cache, _) = in_chunks();
    hub.fail("/xorbs/", FaultKind::Delay(Duration::from_mins(1)), N_XORBS);
    let (settings, stop) = (settings(&hub, cache.path()), AtomicBool::new(false));
    let repo: Repo = REPO.parse().expect("a name");
    let start = Instant::now();
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            while hub.n_faults_left() == N_XORBS {
                thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Relaxed);
        });
        hub::pull(&Pull { repo: &repo, settings: &settings, stop: &stop }, &|_| ())
    });
    assert!(matches!(hub_error(error), HubError::Stopped));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_token_of_the_store_is_renewed_by_the_hubs() {
    let (hub, cache, files) = in_chunks();
    hub.set_token("secret");
    hub.close(REPO, false);
    // It is renewed half a minute before its end.
    hub.set_xet(10);
    let settings = Settings { token: Some("secret".to_owned()), ..settings(&hub, cache.path()) };
    assert_pulled(&pull(&settings, REPO).expect("pulls"), &files);
    assert!(n_requests(&hub, "/xet-read-token/") > 1);
    assert_eq!(n_requests(&hub, "/cdn/"), 0);
}

#[test]
fn refusals_of_the_store_are_those_of_the_hub() {
    let (hub, cache, files) = in_chunks();
    let settings = settings(&hub, cache.path());
    hub.fail("/xet-read-token/", FaultKind::Status(403), 1);
    let error = hub_error(pull(&settings, REPO)).to_string();
    assert!(error.contains("xet-read-token") && error.contains("status 403"), "{error}");
    assert!(error.contains("HF_TOKEN"), "{error}");
    hub.fail("/xet-read-token/", FaultKind::Status(500), 5);
    let error = hub_error(pull(&settings, REPO));
    assert!(error.is_machine() && error.to_string().contains("after 5 attempts"), "{error}");
    hub.fail("/reconstructions/", FaultKind::Status(404), 1000);
    let error = hub_error(pull(&settings, REPO));
    assert!(matches!(error, HubError::Network { attempts: 5, .. }), "{error}");
    // A busy Hub is asked again.
    let (hub, cache, _) = in_chunks();
    let settings = self::settings(&hub, cache.path());
    hub.fail("/xet-read-token/", FaultKind::Status(429), 3);
    hub.fail("/reconstructions/", FaultKind::Status(429), 3);
    assert_pulled(&pull(&settings, REPO).expect("in the end"), &files);
}

#[test]
fn without_a_store_and_where_it_is_not_wanted_files_come_by_ranges() {
    let (hub, cache, files) = in_chunks();
    let unwanted = Settings { xet: false, ..settings(&hub, cache.path()) };
    assert_pulled(&pull(&unwanted, REPO).expect("pulls"), &files);
    assert_eq!(n_requests(&hub, "xet"), 0);
    // A mirror has the Hub's lists and no tokens.
    let (hub, cache, _) = in_chunks();
    hub.fail("/xet-read-token/", FaultKind::Status(404), 1);
    assert_pulled(&pull(&settings(&hub, cache.path()), REPO).expect("pulls"), &files);
    assert_eq!((n_requests(&hub, "/xorbs/"), n_requests(&hub, "/cdn/")), (0, 3));
}
