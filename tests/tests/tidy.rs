//! The shape of the tree: which way crates depend, how long files are, what is not said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};
use olmo_tests::{golden, root};
use sha2::{Digest, Sha256};

/// What each crate of ours may depend on, of ours; see ARCHITECTURE.md.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("olmo-model", &[]),
    ("olmo-optim", &[]),
    ("olmo-data", &[]),
    ("olmo-hub", &["olmo-model"]),
    ("olmo-train", &["olmo-model", "olmo-optim", "olmo-data", "olmo-hub"]),
    ("olmo-eval", &["olmo-model", "olmo-data"]),
    ("olmo", &["olmo-model", "olmo-optim", "olmo-data", "olmo-hub", "olmo-train", "olmo-eval"]),
];

/// Lines of code a file may have, its tests not counted.
const LINES: usize = 400;
/// Lines a file may have in all.
const LINES_WITH_TESTS: usize = 600;

#[test]
fn crates_depend_downward_only() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if ["olmo-tests", "olmo-examples"].contains(&name) {
            continue;
        }
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} has no place yet"));
        seen.insert(name);
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let other = dependency.name.as_str();
            assert!(
                !other.starts_with("olmo") || allowed.contains(&other),
                "{name} must not depend on {other}"
            );
            assert!(other != "burn" || name != "olmo-data", "olmo-data must not depend on burn");
        }
    }
    assert_eq!(seen.len(), MAY_DEPEND_ON.len(), "{seen:?}");
}

#[test]
fn files_are_short() {
    for path in sources() {
        let text = fs::read_to_string(&path).expect("readable");
        let code = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let all = text.lines().count();
        let shown = path.display();
        assert!(code <= LINES, "{shown} has {code} lines of code, at most {LINES}");
        assert!(all <= LINES_WITH_TESTS, "{shown} has {all} lines, at most {LINES_WITH_TESTS}");
    }
}

#[test]
fn no_test_is_ignored_and_no_file_is_a_drawer() {
    let ignore = concat!("#[", "ignore");
    for path in sources() {
        let text = fs::read_to_string(&path).expect("readable");
        assert!(!text.contains(ignore), "{} ignores a test", path.display());
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("plain names");
        let drawers = ["utils", "util", "helpers", "common", "misc", "base"];
        assert!(!drawers.contains(&stem), "{} is a drawer", path.display());
        assert!(text.starts_with("//!"), "{} has no header", path.display());
    }
}

#[test]
fn golden_vectors_are_those_of_the_manifest() {
    let text = fs::read_to_string(golden("MANIFEST.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    for (name, entry) in &manifest {
        let bytes = fs::read(golden(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let digest = format!("{:x}", Sha256::digest(bytes));
        assert_eq!(entry["sha256"].as_str(), Some(digest.as_str()), "{name} was changed by hand");
        let generator = root().join(entry["generator"].as_str().expect("a script"));
        assert!(generator.exists(), "{name}: {} is gone", generator.display());
    }
    let listed: BTreeSet<_> = manifest.keys().map(|name| golden(name)).collect();
    let there = files(&golden(""), &|path| path.file_name() != Some("MANIFEST.toml".as_ref()));
    for path in there {
        assert!(listed.contains(&path), "{} is not in the manifest", path.display());
    }
}

/// Every Rust file of ours.
fn sources() -> Vec<PathBuf> {
    let all: Vec<_> = fs::read_dir(root())
        .expect("the root")
        .map(|entry| entry.expect("listed").path())
        .filter(|path| path.join("Cargo.toml").exists())
        .flat_map(|package| files(&package, &|p| p.extension() == Some("rs".as_ref())))
        .collect();
    assert!(all.len() > 40, "only {} files found", all.len());
    all
}

fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            if path.file_name() != Some("target".as_ref()) {
                found.extend(files(&path, wanted));
            }
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found
}
