//! A folder to a repository: large files by git-lfs, in parts, then one commit.
//!
//! What the Hub has already is not sent again, so a push that was cut goes on with the files that
//! are missing. Protocol: `_commit_api.py` and `lfs.py` of `huggingface_hub` 1.33.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::SendBody;

use super::client::{Answer, Client, LFS, Request, escaped};
use super::download::{Hash, hash_of};
use super::error::HubError;
use super::pull::commit_of;
use super::repo::Repo;
use super::settings::Settings;
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
}

impl Push<'_> {
    /// What would be sent; nothing is asked of the Hub.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the folder cannot be read.
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
    let client = Client::new(request.settings.clone());
    let sender = Sender { client: &client, request };
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
    Ok(Pushed { commit, url, n_sent })
}

fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Planned>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(ToOwned::to_owned) else { continue };
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

struct Sender<'a> {
    client: &'a Client,
    request: &'a Push<'a>,
}

impl Sender<'_> {
    fn repo(&self) -> &Repo {
        self.request.repo
    }

    fn api(&self, what: &str) -> String {
        let revision = escaped(self.repo().revision());
        self.client.url(&format!("/api/models/{}/{what}/{revision}", self.repo().id()))
    }

    fn post_json(&self, url: &str, body: &Value) -> Result<Answer, HubError> {
        self.client.post(url, "application/json", body.to_string().as_bytes())
    }

    /// Makes repository and branch, where they are not there.
    fn prepare(&self) -> Result<(), HubError> {
        let repo = self.repo();
        let body = json!({
            "name": repo.name(), "organization": repo.owner(), "type": "model",
            "private": self.request.private,
        });
        let made = self.post_json(&self.client.url("/api/repos/create"), &body)?;
        // 409: it is there already.
        if made.status != 409 {
            self.client.check(made, repo)?;
        }
        if repo.revision() != "main" && commit_of(self.client, repo, repo.revision())?.is_none() {
            let made = self.post_json(&self.api("branch"), &json!({}))?;
            if made.status != 409 {
                self.client.check(made, repo)?;
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
            let answer = answer.and_then(|answer| self.client.check(answer, self.repo()));
            let answer: Modes = answer.and_then(Answer::json).map_err(Error::Hub)?;
            for mode in answer.files.into_iter().filter(|mode| !mode.ignored) {
                modes.insert(mode.path, mode.kind == "lfs");
            }
        }
        Ok(modes)
    }

    /// Sends one large file, unless the Hub has it; its hash, and the bytes that were sent.
    fn large(&self, file: &Planned, progress: &mut impl FnMut(u64)) -> Result<(String, u64)> {
        let Some(path) = &file.source else {
            let problem = format!("it wants {} by git-lfs, which is made here", file.path);
            return Err(Error::Hub(HubError::Protocol { url: self.api("preupload"), problem }));
        };
        let oid = hash_of(path, &Hash::Sha256(String::new()), file.size)?;
        let action = self.batch(&oid, file.size).map_err(Error::Hub)?;
        let Some(upload) = action.upload else {
            progress(file.size);
            return Ok((oid, 0));
        };
        let part_size = upload.header.get("chunk_size").and_then(whole).unwrap_or(file.size.max(1));
        let mut parts: Vec<(u64, &str)> = upload
            .header
            .iter()
            .filter_map(|(name, url)| Some((name.parse().ok()?, url.as_str()?)))
            .collect();
        parts.sort_unstable();
        if parts.is_empty() {
            self.put(path, 0, file.size, &upload.href, &upload.plain_headers())?;
            progress(file.size);
        } else {
            self.multipart(path, file.size, part_size, &parts, &oid, &upload.href, progress)?;
        }
        if let Some(verify) = action.verify {
            let body = json!({ "oid": oid, "size": file.size });
            let answer = self.post_json(&verify.href, &body);
            answer.and_then(|answer| self.client.check(answer, self.repo())).map_err(Error::Hub)?;
        }
        Ok((oid, file.size))
    }

    #[expect(clippy::too_many_arguments, reason = "one upload, described by what the Hub answered")]
    fn multipart(
        &self,
        path: &Path,
        size: u64,
        part_size: u64,
        parts: &[(u64, &str)],
        oid: &str,
        completion: &str,
        progress: &mut impl FnMut(u64),
    ) -> Result<()> {
        if part_size == 0 || parts.len() as u64 != size.div_ceil(part_size) {
            let problem = format!("{} parts of {part_size} bytes for {size} bytes", parts.len());
            let url = completion.to_owned();
            return Err(Error::Hub(HubError::Protocol { url, problem }));
        }
        let mut done = Vec::new();
        for (index, (number, url)) in parts.iter().enumerate() {
            let start = index as u64 * part_size;
            let n_bytes = part_size.min(size - start);
            let etag = self.put(path, start, n_bytes, url, &[])?;
            done.push(json!({ "partNumber": number, "etag": etag }));
            progress(n_bytes);
        }
        let body = json!({ "oid": oid, "parts": done }).to_string();
        let answer = self.client.post(completion, LFS, body.as_bytes());
        let checked = answer.and_then(|answer| self.client.check(answer, self.repo()));
        checked.map(drop).map_err(Error::Hub)
    }

    /// Sends a part of a file; what the storage calls it.
    fn put(
        &self,
        path: &Path,
        start: u64,
        n_bytes: u64,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<String> {
        let mut all = vec![("content-length", n_bytes.to_string())];
        all.extend(headers.iter().cloned());
        let request = Request { method: "PUT", url, headers: &all };
        let body = || -> io::Result<SendBody<'static>> {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            Ok(SendBody::from_owned_reader(file.take(n_bytes)))
        };
        let answer = self.client.ask(request, body).map_err(Error::Hub)?;
        let answer = self.client.check(answer, self.repo()).map_err(Error::Hub)?;
        Ok(answer.header("etag").unwrap_or_default().to_owned())
    }

    fn batch(&self, oid: &str, size: u64) -> Result<Actions, HubError> {
        #[derive(Deserialize)]
        struct Batch {
            objects: Vec<Object>,
        }
        #[derive(Deserialize)]
        struct Object {
            #[serde(default)]
            actions: Actions,
            #[serde(default)]
            error: Option<Value>,
        }
        let url = self.client.url(&format!("/{}.git/info/lfs/objects/batch", self.repo().id()));
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256",
            "objects": [{ "oid": oid, "size": size }],
            "ref": { "name": self.repo().revision() },
        });
        let answer = self.client.post(&url, LFS, body.to_string().as_bytes())?;
        let batch: Batch = self.client.check(answer, self.repo())?.json()?;
        let protocol = |problem: String| HubError::Protocol { url: url.clone(), problem };
        let object = batch.objects.into_iter().next();
        let object = object.ok_or_else(|| protocol("it names no object".to_owned()))?;
        match object.error {
            Some(error) => Err(protocol(error.to_string())),
            None => Ok(object.actions),
        }
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
        let answer =
            self.client.post(&self.api("commit"), "application/x-ndjson", body.as_bytes())?;
        let committed: Committed = self.client.check(answer, self.repo())?.json()?;
        Ok((committed.commit_oid, committed.commit_url))
    }
}

/// A number that is written as one, or as text.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What git-lfs says is to be done with an object; nothing where it is there.
#[derive(Debug, Default, Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Debug, Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

impl Action {
    fn plain_headers(&self) -> Vec<(&str, String)> {
        self.header
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?.to_owned())))
            .collect()
    }
}
