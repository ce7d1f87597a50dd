//! The revisions of a model: its training checkpoints, sorted, and one by the beginning of its name.

use std::cmp::Reverse;
use std::fmt;

use serde::Serialize;

use super::cache::is_commit;
use super::client::Client;
use super::error::{HubError, Near};
use super::known::nearest;
use super::pull::commit_of;
use super::repo::{Repo, is_revision};
use super::settings::Settings;
use super::waiter::GO_ON;
use crate::error::{Error, Result};

/// A checkpoint of training, as the name of its branch says it.
///
/// Styles in use: `step1000-tokens4B`, `stage1-step1907359-tokens4001B`,
/// `stage2-ingredient3-step23852-tokens51B`, `stage3-step1000`, `step1000`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// The branch.
    pub revision: String,
    /// Stage and ingredient, where the name has them.
    #[serde(flatten)]
    pub stage: Stage,
    /// Steps made, in that stage.
    pub step: u64,
    /// Billions of tokens seen.
    pub tokens_billions: Option<u64>,
    /// The commit that the branch is at.
    pub commit: String,
}

/// Which part of training a checkpoint is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Stage {
    /// The stage, from 1.
    pub stage: Option<u32>,
    /// One of several runs that were averaged.
    pub ingredient: Option<u32>,
}

/// Which checkpoints are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Steps from one that is listed to the next, at least; in each stage.
    pub every: Option<u64>,
    /// The first step.
    pub from: Option<u64>,
    /// The last step.
    pub to: Option<u64>,
}

impl Filter {
    /// Those that pass, of checkpoints that are sorted.
    pub fn apply(&self, checkpoints: Vec<Checkpoint>) -> Vec<Checkpoint> {
        let mut last: Option<(Stage, u64)> = None;
        let mut passes = |checkpoint: &Checkpoint| {
            let Checkpoint { stage, step, .. } = *checkpoint;
            let in_range =
                self.from.is_none_or(|from| step >= from) && self.to.is_none_or(|to| step <= to);
            let far_enough = match (self.every, last) {
                (Some(every), Some((before, at))) if before == stage => {
                    at.checked_add(every).is_some_and(|next| step >= next)
                }
                _ => true,
            };
            if in_range && far_enough {
                last = Some((stage, step));
            }
            in_range && far_enough
        };
        checkpoints.into_iter().filter(|checkpoint| passes(checkpoint)).collect()
    }
}

impl Checkpoint {
    /// Reads a branch's name, `None` where it is not that of a checkpoint.
    pub fn parse(revision: &str, commit: &str) -> Option<Self> {
        let mut checkpoint = Self {
            revision: revision.to_owned(),
            stage: Stage::default(),
            step: 0,
            tokens_billions: None,
            commit: commit.to_owned(),
        };
        let mut step = None;
        for part in revision.split('-') {
            let number = |prefix: &str, suffix: &str| -> Option<u64> {
                part.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
            };
            let small = |prefix: &str| number(prefix, "").and_then(|n| u32::try_from(n).ok());
            if let Some(found) = number("step", "") {
                step = Some(found);
            } else if let Some(found) = number("tokens", "B") {
                checkpoint.tokens_billions = Some(found);
            } else if let Some(found) = small("stage") {
                checkpoint.stage.stage = Some(found);
            } else if let Some(found) = small("ingredient") {
                checkpoint.stage.ingredient = Some(found);
            } else {
                return None;
            }
        }
        checkpoint.step = step?;
        Some(checkpoint)
    }

    fn order(&self) -> (Stage, u64, Option<u64>, &str) {
        (self.stage, self.step, self.tokens_billions, &self.revision)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.stage, self.ingredient) {
            (Some(stage), Some(ingredient)) => write!(f, "stage {stage}, ingredient {ingredient}"),
            (Some(stage), None) => write!(f, "stage {stage}"),
            (None, Some(ingredient)) => write!(f, "ingredient {ingredient}"),
            (None, None) => Ok(()),
        }
    }
}

/// Branches and tags of a repository with their commits, as the Hub lists them.
///
/// # Errors
///
/// [`Error::Hub`].
pub fn revisions(repo: &Repo, settings: &Settings) -> Result<Vec<(String, String)>> {
    if settings.offline {
        let what = format!("the revisions of {}", repo.id());
        return Err(Error::Hub(HubError::OnlyOnline { what }));
    }
    Client::new(settings, &GO_ON).and_then(|client| refs(&client, repo)).map_err(Error::Hub)
}

/// A model's training checkpoints, by stage and step.
///
/// # Errors
///
/// [`Error::Hub`].
pub fn checkpoints(repo: &Repo, settings: &Settings) -> Result<Vec<Checkpoint>> {
    let revisions = revisions(repo, settings)?;
    Ok(sorted(&revisions))
}

fn sorted(revisions: &[(String, String)]) -> Vec<Checkpoint> {
    let parse = |(name, commit): &(String, String)| Checkpoint::parse(name, commit);
    let mut checkpoints: Vec<Checkpoint> = revisions.iter().filter_map(parse).collect();
    checkpoints.sort_by(|a, b| a.order().cmp(&b.order()));
    checkpoints
}

fn refs(client: &Client<'_>, repo: &Repo) -> Result<Vec<(String, String)>, HubError> {
    let url = client.url(&format!("/api/models/{}/refs", repo.id()));
    let known = client.of(repo);
    let refs = client.want(repo, &url, || known.list_refs().send())?;
    let all = refs.branches.into_iter().chain(refs.tags);
    Ok(all.map(|found| (found.name, found.target_commit)).collect())
}

/// The whole name and the commit of the revision asked for, which may be the beginning of one.
pub(super) fn resolve(client: &Client<'_>, repo: &Repo) -> Result<(String, String), HubError> {
    let revision = repo.revision();
    if let Some(commit) = commit_of(client, repo, revision)? {
        return Ok((revision.to_owned(), commit));
    }
    let (revision, commit) = by_prefix(&refs(client, repo)?, repo)?;
    // Both become names of files in the cache.
    let problem = if !is_revision(&revision) {
        format!("{revision:?} is no name that a branch or tag could have")
    } else if !is_commit(&commit) {
        format!("{commit:?}, where it has {revision} at, is no commit")
    } else {
        return Ok((revision, commit));
    };
    let url = client.url(&format!("/api/models/{}/refs", repo.id()));
    Err(HubError::Protocol { url, problem })
}

/// The one revision that begins so. Where the next character continues a number, it is another
/// one: `step1000` is not the beginning of `step10000`.
fn by_prefix(refs: &[(String, String)], repo: &Repo) -> Result<(String, String), HubError> {
    let revision = repo.revision();
    let begins = |(name, _): &&(String, String)| {
        let Some(rest) = name.strip_prefix(revision) else { return false };
        let continues = rest.starts_with(|c: char| c.is_ascii_digit());
        !(continues && revision.ends_with(|c: char| c.is_ascii_digit()))
    };
    let found: Vec<_> = refs.iter().filter(begins).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let mut near = Near(closest_steps(refs, revision));
            if near.0.is_empty() {
                near = nearest(revision, refs.iter().map(|(name, _)| name.as_str()));
            }
            let revision = revision.to_owned();
            Err(HubError::NoRevision { repo: repo.id(), revision, near })
        }
        [first, ..] => Err(HubError::AmbiguousRevision {
            repo: repo.id(),
            revision: revision.to_owned(),
            n: found.len(),
            example: first.0.clone(),
        }),
    }
}

/// The checkpoints whose steps are nearest to one that is not there.
fn closest_steps(refs: &[(String, String)], revision: &str) -> Vec<String> {
    let Some(asked) = Checkpoint::parse(revision, "") else { return Vec::new() };
    let mut there = sorted(refs);
    there.sort_by_key(|found| {
        (Reverse(found.stage == asked.stage), found.step.abs_diff(asked.step))
    });
    there.into_iter().take(2).map(|found| found.revision).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), "c".repeat(40))).collect()
    }

    const NAMES: [&str; 9] = [
        "main",
        "step10000-tokens41B",
        "step1000-tokens4B",
        "stage2-ingredient3-step23852-tokens51B",
        "stage1-step1907359-tokens4001B",
        "stage2-ingredient1-step1000-tokens3B",
        "stage1-step1000-tokens3B",
        "step2000-tokens8B",
        "step-x",
    ];

    #[test]
    fn names_of_every_style_are_sorted() {
        let sorted = sorted(&refs(&NAMES));
        let names: Vec<_> = sorted.iter().map(|found| found.revision.as_str()).collect();
        assert_eq!(
            names,
            [
                "step1000-tokens4B",
                "step2000-tokens8B",
                "step10000-tokens41B",
                "stage1-step1000-tokens3B",
                "stage1-step1907359-tokens4001B",
                "stage2-ingredient1-step1000-tokens3B",
                "stage2-ingredient3-step23852-tokens51B",
            ]
        );
        assert_eq!(sorted[2].tokens_billions, Some(41));
        assert_eq!(sorted[6].stage, Stage { stage: Some(2), ingredient: Some(3) });
        let every = Filter { every: Some(1500), from: Some(1000), to: Some(30_000) };
        let names: Vec<_> = every.apply(sorted).into_iter().map(|found| found.revision).collect();
        assert_eq!(
            names,
            [
                "step1000-tokens4B",
                "step10000-tokens41B",
                "stage1-step1000-tokens3B",
                "stage2-ingredient1-step1000-tokens3B",
                "stage2-ingredient3-step23852-tokens51B",
            ]
        );
    }

    #[test]
    fn steps_past_any_number_are_not_far_enough() {
        let names = [format!("step{}", u64::MAX - 1), format!("step{}", u64::MAX)];
        let sorted = sorted(&refs(&names.each_ref().map(String::as_str)));
        for (every, expected) in [(1, 2), (2, 1), (u64::MAX, 1)] {
            let every = Filter { every: Some(every), ..Filter::default() };
            assert_eq!(every.apply(sorted.clone()).len(), expected, "{every:?}");
        }
    }

    #[test]
    fn a_beginning_finds_the_one_revision_that_it_begins() {
        let found = |revision: &str| {
            let repo: Repo = format!("allenai/OLMo-1B@{revision}").parse().unwrap();
            by_prefix(&refs(&NAMES), &repo)
        };
        assert_eq!(found("step1000").unwrap().0, "step1000-tokens4B");
        assert_eq!(found("stage2-ingredient3").unwrap().0, NAMES[3]);
        let many = found("stage2").unwrap_err().to_string();
        assert!(many.contains("begins 2 revisions"), "{many}");
        let none = found("step1500-tokens6B").unwrap_err().to_string();
        assert!(none.contains("step1000-tokens4B"), "{none}");
    }
}
