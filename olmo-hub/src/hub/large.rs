//! Large files to the Hub by git-lfs: whole, or in parts that are sent once each.
//!
//! Protocol: `lfs.py` of `huggingface_hub` 1.33. Of an upload in parts it is noted on the disk what
//! the storage took, see [`Journal`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::download::{Hash, hash_of};
use super::error::HubError;
use super::push::{Planned, Sender};
use super::requests::{Answer, Answered, LFS};
use super::uploads::{Journal, Upload};
use crate::error::{Error, Result};

impl Sender<'_> {
    /// Sends one large file, unless the Hub has it; its hash, and the bytes that were sent.
    pub(super) fn large(
        &self,
        file: &Planned,
        progress: &mut impl FnMut(u64),
    ) -> Result<(String, u64)> {
        let Some(path) = &file.source else {
            let problem = format!("it wants {} by git-lfs, which is made here", file.path);
            return Err(Error::Hub(HubError::Protocol { url: self.api("preupload"), problem }));
        };
        let oid = hash_of(path, &Hash::Sha256(String::new()), file.size)?;
        let mut parts = Parts { sender: self, path, told: 0, n_sent: 0, progress };
        let mut journal = Journal::open(self.request.settings, self.repo(), &oid, file.size)?;
        if let Some(begun) = journal.begun()
            && parts.send(&begun, &mut journal, true)?
        {
            let n_sent = parts.n_sent;
            self.ended(journal, &begun)?;
            return Ok((oid, n_sent));
        }
        let action = self.batch(&oid, file.size).map_err(Error::Hub)?;
        let Some(action_upload) = action.upload else {
            parts.tell(file.size);
            journal.end()?;
            return Ok((oid, 0));
        };
        let verify = action.verify.map(|verify| verify.href);
        let upload = action_upload.upload(&oid, file.size, verify);
        if upload.parts.is_empty() {
            let headers = action_upload.plain_headers();
            let answered =
                self.client.put(&self.uploads, (path, 0, file.size), &action_upload.href, &headers);
            answered.and_then(|answered| self.passed(answered)).map_err(Error::Hub)?;
            parts.n_sent += file.size;
            parts.tell(file.size);
        } else {
            journal.begin(&upload)?;
            parts.send(&upload, &mut journal, false)?;
        }
        let n_sent = parts.n_sent;
        self.ended(journal, &upload)?;
        Ok((oid, n_sent))
    }

    /// Tells the Hub that a file is there, where it wants to know, and forgets the upload.
    fn ended(&self, journal: Journal, upload: &Upload) -> Result<()> {
        if let Some(verify) = &upload.verify {
            let body = json!({ "oid": upload.oid, "size": upload.size });
            self.post_json(verify, &body).map_err(Error::Hub)?;
        }
        journal.end()
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
        let answered = self.client.post(&url, LFS, body.to_string().as_bytes())?;
        let batch: Batch = self.passed(answered)?.json()?;
        let protocol = |problem: String| HubError::Protocol { url: url.clone(), problem };
        let object = batch.objects.into_iter().next();
        let object = object.ok_or_else(|| protocol("it names no object".to_owned()))?;
        match object.error {
            Some(error) => Err(protocol(error.to_string())),
            None => Ok(object.actions),
        }
    }
}

/// A file that is sent in parts.
struct Parts<'a, 'b, P> {
    sender: &'a Sender<'b>,
    path: &'a Path,
    /// Bytes that were told to be there.
    told: u64,
    n_sent: u64,
    progress: &'a mut P,
}

impl<P: FnMut(u64)> Parts<'_, '_, P> {
    /// Sends the parts that the storage has not taken, and ends the upload. False where the upload
    /// is an old one that the storage refuses.
    fn send(&mut self, upload: &Upload, journal: &mut Journal, is_old: bool) -> Result<bool> {
        let Upload { size, part_size, parts, completion, .. } = upload;
        if *part_size == 0 || parts.len() as u64 != size.div_ceil(*part_size) {
            let problem = format!("{} parts of {part_size} bytes for {size} bytes", parts.len());
            let url = completion.clone();
            return Err(Error::Hub(HubError::Protocol { url, problem }));
        }
        let mut done = Vec::new();
        for (index, (number, url)) in parts.iter().enumerate() {
            let start = index as u64 * part_size;
            let n_bytes = (*part_size).min(size - start);
            if journal.taken(*number).is_none() {
                let part = (self.path, start, n_bytes);
                let answered = self.sender.client.put(&self.sender.uploads, part, url, &[]);
                let Some(answer) = self.passed(answered, is_old)? else { return Ok(false) };
                self.n_sent += n_bytes;
                journal.take(*number, answer.header("etag").unwrap_or_default())?;
            }
            let etag = journal.taken(*number).unwrap_or_default();
            done.push(json!({ "partNumber": number, "etag": etag }));
            self.tell(start + n_bytes);
        }
        let body = json!({ "oid": upload.oid, "parts": done }).to_string();
        let answered = self.sender.client.post(completion, LFS, body.as_bytes());
        Ok(self.passed(answered, is_old)?.is_some())
    }

    /// An answer that is no refusal; `None` where it is one and the upload is an old one, whose
    /// addresses are no longer good.
    fn passed(&self, answered: Result<Answered, HubError>, is_old: bool) -> Result<Option<Answer>> {
        match answered.map_err(Error::Hub)? {
            Err(refused) if is_old && (400..500).contains(&refused.status) => Ok(None),
            answered => self.sender.passed(answered).map(Some).map_err(Error::Hub),
        }
    }

    /// Tells that so many bytes of the file are there.
    fn tell(&mut self, n_bytes: u64) {
        (self.progress)(n_bytes.saturating_sub(self.told));
        self.told = self.told.max(n_bytes);
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
    /// The upload in parts that it describes; without parts where the file goes whole.
    fn upload(&self, oid: &str, size: u64, verify: Option<String>) -> Upload {
        let mut parts: Vec<(u64, String)> = self
            .header
            .iter()
            .filter_map(|(name, url)| Some((name.parse().ok()?, url.as_str()?.to_owned())))
            .collect();
        parts.sort_unstable();
        Upload {
            oid: oid.to_owned(),
            size,
            part_size: self.header.get("chunk_size").and_then(whole).unwrap_or(size.max(1)),
            parts,
            completion: self.href.clone(),
            verify,
        }
    }

    fn plain_headers(&self) -> Vec<(&str, String)> {
        self.header
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?.to_owned())))
            .collect()
    }
}
