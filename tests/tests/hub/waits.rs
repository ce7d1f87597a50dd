//! Who waits for the Hub: callers that want to stop, and callers within a runtime of their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use olmo_hub::hub::{self, HubError, Pull, Repo, Settings};
use olmo_tests::stand_in::{FaultKind, StandIn};

use super::{REPO, assert_pulled, commit, hub_error, large, olmo, pull, settings};

/// Asks a pull to stop once something has gone wrong with a request to `path`.
fn assert_stops_at_once(path: &str, kind: FaultKind) {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    commit(&hub, REPO, "main", &large());
    hub.fail(path, kind, 1);
    let (settings, stop) = (settings(&hub, cache.path()), AtomicBool::new(false));
    let repo: Repo = REPO.parse().expect("a name");
    let start = Instant::now();
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            while hub.n_faults_left() > 0 {
                thread::sleep(Duration::from_millis(10));
            }
            thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        });
        hub::pull(&Pull { repo: &repo, settings: &settings, stop: &stop }, &|_| ())
    });
    assert!(matches!(hub_error(error), HubError::Stopped), "{path}");
    assert!(start.elapsed() < Duration::from_secs(20), "{path}: {:?}", start.elapsed());
}

#[test]
fn a_stop_does_not_wait_for_a_hub_that_is_busy_or_silent() {
    let minute = Duration::from_mins(1);
    for path in ["/revision/", "/tree/", "/resolve/"] {
        assert_stops_at_once(path, FaultKind::Busy(minute.as_secs()));
        assert_stops_at_once(path, FaultKind::Delay(minute));
    }
    // Within a file: the part that is there, and then nothing.
    assert_stops_at_once("/cdn/", FaultKind::Slow(minute));
}

#[test]
fn a_stop_does_not_wait_for_another_pull_of_the_same() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    commit(&hub, REPO, "main", &large());
    hub.fail("/cdn/", FaultKind::Slow(Duration::from_mins(1)), 3);
    let settings = settings(&hub, cache.path());
    let repo: Repo = REPO.parse().expect("a name");
    let (stop, stop_other) = (AtomicBool::new(false), AtomicBool::new(false));
    let pull = |stop: &AtomicBool| {
        hub_error(hub::pull(&Pull { repo: &repo, settings: &settings, stop }, &|_| ()))
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let other = scope.spawn(|| pull(&stop_other));
        while hub.n_faults_left() > 0 {
            thread::sleep(Duration::from_millis(10));
        }
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
        });
        let error = pull(&stop);
        assert!(matches!(error, HubError::Stopped), "{error}");
        stop_other.store(true, Ordering::Relaxed);
        assert!(matches!(other.join().expect("ends"), HubError::Stopped));
    });
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_hub_that_asks_for_patience_gets_it() {
    let (hub, cache, files) = (StandIn::start(), tempfile::tempdir().expect("a folder"), large());
    commit(&hub, REPO, "main", &files);
    let settings = settings(&hub, cache.path());
    for path in ["/revision/", "/tree/"] {
        hub.fail(path, FaultKind::Busy(1), 1);
    }
    let start = Instant::now();
    assert_pulled(&pull(&settings, REPO).expect("pulls"), &files);
    // By itself it would wait for a thousandth of a second.
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_caller_within_a_runtime_of_its_own_pulls_too() {
    let hub = StandIn::start();
    let files = large();
    commit(&hub, REPO, "main", &files);
    for seconds in [None, Some(900)] {
        if let Some(seconds) = seconds {
            hub.set_xet(seconds);
        }
        let several = tokio::runtime::Builder::new_multi_thread().build().expect("starts");
        let one = tokio::runtime::Builder::new_current_thread().build().expect("starts");
        for runtime in [several, one] {
            let cache = tempfile::tempdir().expect("a folder");
            let settings = settings(&hub, cache.path());
            let pulled = runtime.block_on(async { pull(&settings, REPO) }).expect("pulls");
            assert_pulled(&pulled, &files);
            let repo: Repo = REPO.parse().expect("a name");
            let listed = runtime.block_on(async { hub::revisions(&repo, &settings) });
            assert_eq!(listed.expect("listed").len(), 1);
        }
    }
}

#[test]
fn where_there_is_no_token_none_is_sent() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    commit(&hub, REPO, "main", &large());
    let mut command = olmo(&hub, cache.path(), &["pull", REPO]);
    // Blank is none, whoever reads it.
    let output = command.env("HF_TOKEN", " ").output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(hub.log().iter().all(|logged| !logged.has_token), "{:?}", hub.log());
    let refused = Settings { token: Some("a b\n".to_owned()), ..settings(&hub, cache.path()) };
    let error = hub_error(pull(&refused, REPO)).to_string();
    assert!(error.contains("HF_TOKEN"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_machine_without_certificates_is_told_what_it_lacks() {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    commit(&hub, REPO, "main", &large());
    let mut command = olmo(&hub, cache.path(), &["pull", REPO]);
    command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", cache.path());
    let output = command.output().expect("runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("ca-certificates") && message.contains("SSL_CERT_FILE"), "{message}");
}
