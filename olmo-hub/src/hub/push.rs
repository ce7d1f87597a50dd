//! A folder to a repository: large files by git-lfs, in parts, then one commit.
//!
//! What the Hub has already is not sent again, so a push that was cut goes on with the files and the
//! parts of files that are missing. Protocol: `_commit_api.py` and `lfs.py` of `huggingface_hub` 1.33.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hf_hub::repository::RepoTypeModel;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, escaped, http};
use super::error::HubError;
use super::failure::reasons;
use super::pull::commit_of;
use super::repo::Repo;
use super::requests::{Answer, Answered};
use super::settings::Settings;
use super::waiter::GO_ON;
use crate::atomic::{REPLACED_PREFIX, TEMPORARY_PREFIX};
use crate::error::{Error, Result};

/// Files that are listed in one request.
const LISTED: usize = 256;
/// Bytes from the beginning of a file by which the Hub tells text from data.
const SAMPLE: u64 = 512;

/// What is to be pushed.
#[derive(Debug)]
pub struct Push<'a> {
    /// The repository, and the branch where it is not `main`; both are made where they are not
    /// there.
    pub repo: &'a Repo,
    /// The Hub and the token.
    pub settings: &'a Settings,
    /// The folder, of which everything is sent but hidden files and folders.
    pub dir: &'a Path,
    /// Files that are sent besides, by name, such as a model card; before those of the folder.
    pub extra: &'a [(String, Vec<u8>)],
    /// The commit's summary.
    pub message: &'a str,
    /// Whether a repository that is made is seen by its owner only.
    pub private: bool,
}

/// A file that would be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its path in the repository.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Where it is here, `None` where it is one of the extra files.
    pub source: Option<PathBuf>,
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The commit.
    pub commit: String,
    /// Its address.
    pub url: String,
    /// Bytes of large files that were sent, those that the Hub had already not counted.
    pub n_sent: u64,
    /// Files that the repository ignores, by its `.gitignore`: they are not in the commit.
    pub ignored: Vec<String>,
}

impl Push<'_> {
    /// What would be sent; nothing is asked of the Hub.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the folder cannot be read, or a file's name is no text, as the Hub's are.
    pub fn plan(&self) -> Result<Vec<Planned>> {
        let mut found = BTreeMap::new();
        walk(self.dir, "", &mut found)?;
        for (path, content) in self.extra {
            let size = content.len() as u64;
            let planned = Planned { path: path.clone(), size, source: None };
            found.insert(path.clone(), planned);
        }
        Ok(found.into_values().collect())
    }

    fn content(&self, planned: &Planned) -> Result<Vec<u8>> {
        match &planned.source {
            Some(path) => fs::read(path).map_err(Error::io(path, "read")),
            None => Ok(self.extra_content(&planned.path).to_vec()),
        }
    }

    fn extra_content(&self, path: &str) -> &[u8] {
        self.extra.iter().find(|(name, _)| name == path).map_or(&[], |(_, content)| content)
    }

    fn sample(&self, planned: &Planned) -> Result<Vec<u8>> {
        let Some(path) = &planned.source else {
            let content = self.extra_content(&planned.path);
            return Ok(content[..content.len().min(SAMPLE as usize)].to_vec());
        };
        let mut sample = Vec::new();
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        file.take(SAMPLE).read_to_end(&mut sample).map_err(Error::io(path, "read"))?;
        Ok(sample)
    }
}

/// Sends a folder; `progress` is told of bytes of large files as they are sent or found to be there.
///
/// # Errors
///
/// [`Error::Hub`], and [`Error::Io`] where a file cannot be read.
pub fn push(request: &Push<'_>, mut progress: impl FnMut(u64)) -> Result<Pushed> {
    let planned = request.plan()?;
    let client = Client::new(request.settings, &GO_ON).map_err(Error::Hub)?;
    let uploads = http().build().map_err(|error| HubError::Start { problem: reasons(&error) });
    let sender = Sender { client: &client, uploads: uploads.map_err(Error::Hub)?, request };
    sender.prepare().map_err(Error::Hub)?;
    let is_large = sender.modes(&planned)?;
    let mut n_sent = 0;
    let mut lines = vec![json!({
        "key": "header",
        "value": { "summary": request.message, "description": "" },
    })];
    for file in &planned {
        if is_large.get(&file.path).copied().unwrap_or(false) {
            let (oid, sent) = sender.large(file, &mut progress)?;
            n_sent += sent;
            let value = json!({
                "path": file.path, "algo": "sha256", "oid": oid, "size": file.size,
            });
            lines.push(json!({ "key": "lfsFile", "value": value }));
        } else if is_large.contains_key(&file.path) {
            let content = STANDARD.encode(request.content(file)?);
            let value = json!({ "content": content, "path": file.path, "encoding": "base64" });
            lines.push(json!({ "key": "file", "value": value }));
        }
    }
    let (commit, url) = sender.commit(&lines).map_err(Error::Hub)?;
    let ignored = planned.into_iter().map(|file| file.path);
    let ignored = ignored.filter(|path| !is_large.contains_key(path)).collect();
    Ok(Pushed { commit, url, n_sent, ignored })
}

fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Planned>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            let problem = io::Error::new(io::ErrorKind::InvalidData, "its name is not UTF-8");
            return Err(Error::io(&path, "send")(problem));
        };
        if name.starts_with('.')
            || name.starts_with(TEMPORARY_PREFIX)
            || name.starts_with(REPLACED_PREFIX)
        {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(Error::io(&path, "read"))?;
        let at = format!("{prefix}{name}");
        if metadata.is_dir() {
            walk(&path, &format!("{at}/"), found)?;
        } else {
            let planned = Planned { path: at.clone(), size: metadata.len(), source: Some(path) };
            found.insert(at, planned);
        }
    }
    Ok(())
}

/// A push under way.
pub(super) struct Sender<'a> {
    pub(super) client: &'a Client<'a>,
    /// What parts of files are sent by, however long one takes.
    pub(super) uploads: reqwest::Client,
    pub(super) request: &'a Push<'a>,
}

impl Sender<'_> {
    pub(super) fn repo(&self) -> &Repo {
        self.request.repo
    }

    pub(super) fn api(&self, what: &str) -> String {
        let revision = escaped(self.repo().revision());
        self.client.url(&format!("/api/models/{}/{what}/{revision}", self.repo().id()))
    }

    pub(super) fn post_json(&self, url: &str, body: &Value) -> Result<Answer, HubError> {
        let answered = self.client.post(url, "application/json", body.to_string().as_bytes())?;
        self.passed(answered)
    }

    /// An answer that is no refusal.
    pub(super) fn passed(&self, answered: Answered) -> Result<Answer, HubError> {
        answered.map_err(|refused| self.client.meaning(refused, self.repo()))
    }

    /// Makes repository and branch, where they are not there.
    fn prepare(&self) -> Result<(), HubError> {
        let (repo, id) = (self.repo(), self.repo().id());
        self.client.want(repo, &self.client.url("/api/repos/create"), || {
            let make = self.client.hub().create_repository().repo_id(&id);
            make.repo_type(RepoTypeModel).private(self.request.private).exist_ok(true).send()
        })?;
        let branch = repo.revision();
        if branch != "main" && commit_of(self.client, repo, branch)?.is_none() {
            let known = self.client.of(repo);
            let make = || known.create_branch().branch(branch).send();
            match self.client.ask(&self.api("branch"), make)? {
                // 409: it is there already.
                Err(refused) if refused.status != 409 => {
                    return Err(self.client.meaning(refused, repo));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Which files go by git-lfs, by what the Hub says; files that it ignores are left out.
    fn modes(&self, planned: &[Planned]) -> Result<BTreeMap<String, bool>> {
        #[derive(Deserialize)]
        struct Modes {
            files: Vec<Mode>,
        }
        #[derive(Deserialize)]
        struct Mode {
            path: String,
            #[serde(rename = "uploadMode")]
            kind: String,
            #[serde(default, rename = "shouldIgnore")]
            ignored: bool,
        }
        let mut modes = BTreeMap::new();
        for files in planned.chunks(LISTED) {
            let mut listed = Vec::new();
            for file in files {
                let sample = STANDARD.encode(self.request.sample(file)?);
                listed.push(json!({ "path": file.path, "sample": sample, "size": file.size }));
            }
            let answer = self.post_json(&self.api("preupload"), &json!({ "files": listed }));
            let answer: Modes = answer.and_then(|answer| answer.json()).map_err(Error::Hub)?;
            for mode in answer.files.into_iter().filter(|mode| !mode.ignored) {
                modes.insert(mode.path, mode.kind == "lfs");
            }
        }
        Ok(modes)
    }

    fn commit(&self, lines: &[Value]) -> Result<(String, String), HubError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Committed {
            commit_oid: String,
            commit_url: String,
        }
        let mut body = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        body.push('\n');
        let answered =
            self.client.post(&self.api("commit"), "application/x-ndjson", body.as_bytes())?;
        let committed: Committed = self.passed(answered)?.json()?;
        Ok((committed.commit_oid, committed.commit_url))
    }
}
