//! Files by Xet, the store of chunks in which the Hub keeps large files: by `hf-xet`, the client of
//! `huggingface_hub` and of `hf-hub`.
//!
//! The list of a commit's files has each one's hash there; the Hub gives a token and the store's
//! address; the store says of which pieces a range of the file is made, and where each piece is.
//! Pieces are fetched several at a time and come here in order. The store's hash is of a file's
//! chunks and is not compared by its client: that a file is right is known by its SHA-256, as ever.
//!
//! Why by `hf-xet` and not by `hf-hub`: see ARCHITECTURE.md, "Decisions".

use std::fs;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::stream;
use serde::Deserialize;
use xet::xet_session::{
    HeaderMap, HeaderValue, SessionError, XetConfig, XetDownloadStream, XetDownloadStreamGroup,
    XetFileInfo, XetSessionBuilder, header,
};

use super::body::Body;
use super::client::{ATTEMPTS, Client, SILENCE, USER_AGENT, bearer};
use super::download::{Download, RemoteFile};
use super::error::HubError;
use super::settings::Settings;

/// A stream that fails tells its end first and the reason right after; asked between the two, it
/// would never say it.
const AFTERTHOUGHT: Duration = Duration::from_millis(1);

/// Stores that were spoken to so far, so that two at once do not share folders.
static N_GROUPS: AtomicU64 = AtomicU64::new(0);

/// The way to the chunks of a repository, found when its first file is opened.
#[derive(Default)]
pub(super) struct Xet(Mutex<Option<Store>>);

#[derive(Clone)]
enum Store {
    /// The Hub gives no tokens for one, as a mirror of it may not.
    None,
    Chunks(XetDownloadStreamGroup),
}

impl Xet {
    /// Begins to fetch the rest of a file from `at` on; `None` where it is not kept in chunks.
    pub(super) fn open(
        &self,
        download: &Download<'_>,
        file: &RemoteFile,
        at: u64,
    ) -> Result<Option<Body>, HubError> {
        let Some(hash) = file.xet.as_ref().filter(|_| download.client.settings.xet) else {
            return Ok(None);
        };
        let Store::Chunks(chunks) = self.store(download)? else { return Ok(None) };
        let info = XetFileInfo::new(hash.clone(), file.size);
        let stream = chunks.download_stream_blocking(info, Some(at..file.size));
        let stream = stream.map_err(|error| HubError::Xet { problem: error.to_string() })?;
        // Dropped, it is cancelled.
        let bytes = stream::unfold(Some(stream), async |stream| {
            let mut stream = stream?;
            match next(&mut stream).await {
                Ok(bytes) => Some((Ok(bytes?), Some(stream))),
                Err(problem) => Some((Err(problem), None)),
            }
        });
        Ok(Some(Body { begin: at, end: file.size, bytes: Box::pin(bytes) }))
    }

    /// The store, which the first file finds while the others wait.
    fn store(&self, download: &Download<'_>) -> Result<Store, HubError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*known {
            return Ok(store.clone());
        }
        let store = find(download)?;
        *known = Some(store.clone());
        Ok(store)
    }
}

/// Asks the Hub for a repository's store.
fn find(download: &Download<'_>) -> Result<Store, HubError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Grant {
        access_token: String,
        exp: u64,
        cas_url: String,
    }
    let (client, repo) = (download.client, download.repo);
    let path = format!("/api/models/{}/xet-read-token/{}", repo.id(), download.commit);
    let url = client.url(&path);
    let answer = match client.get(&url)? {
        Err(refused) if refused.status == 404 && refused.code.is_empty() => return Ok(Store::None),
        answered => answered.map_err(|refused| client.meaning(refused, repo))?,
    };
    let grant: Grant = answer.json()?;
    group(client, &url, &grant.cas_url, (grant.access_token, grant.exp))
        .map(Store::Chunks)
        .map_err(|problem| HubError::Xet { problem })
}

/// What speaks to a store. `token` with the second of its end; `renewal`, an address of the Hub, gives
/// the next one, and is asked with the Hub's token, which stays behind at a redirect to elsewhere.
fn group(
    client: &Client<'_>,
    renewal: &str,
    endpoint: &str,
    token: (String, u64),
) -> Result<XetDownloadStreamGroup, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let mut for_hub = headers.clone();
    let token_of_hub = client.settings.token.as_deref().and_then(bearer);
    for_hub.extend(token_of_hub.map(|token| (header::AUTHORIZATION, token)));
    // Its client makes folders for uploads wherever it is told to, and needs none of them here.
    let number = N_GROUPS.fetch_add(1, Ordering::Relaxed);
    let folders = format!(".olmo-xet-{}-{number}", std::process::id());
    let folders = client.settings.cache.join(folders);
    let group = XetSessionBuilder::new_with_config(config(&client.settings))
        .with_cache_dir(&folders)
        .build()
        .and_then(|session| session.new_download_stream_group())
        .and_then(|group| {
            group
                .with_endpoint(endpoint)
                .with_custom_headers(headers)
                .with_token_info(token.0, token.1)
                .with_token_refresh_url(renewal, for_hub)
                .build_blocking()
        });
    let _ = fs::remove_dir_all(&folders);
    group.map_err(|error| error.to_string())
}

/// Our patience and measure in place of its own, which it would read from `HF_XET_…` variables.
fn config(settings: &Settings) -> XetConfig {
    let mut config = XetConfig::default();
    // A piece is asked for again a few times, so that those beside it are not lost; whatever lasts
    // longer cuts the stream, and the download's own loop waits and goes on.
    config.client.retry_max_attempts = ATTEMPTS as usize;
    config.client.retry_base_delay = settings.retry_delay;
    config.client.connect_timeout = SILENCE;
    config.client.read_timeout = SILENCE;
    // What is held in memory, by default a fourth of the machine's, and lost when it is stopped.
    config.reconstruction.download_buffer_size = "128mb".into();
    config.reconstruction.download_buffer_perfile_size = "64mb".into();
    config.reconstruction.download_buffer_limit = "512mb".into();
    config.reconstruction.min_prefetch_buffer = "256mb".into();
    config.telemetry.enabled = false;
    config
}

/// The next bytes of a stream, or why no more come.
async fn next(stream: &mut XetDownloadStream) -> Result<Option<Vec<u8>>, String> {
    let mut told = patiently(stream).await;
    // At first it may only say that a piece did not come, and why when it is asked again.
    while matches!(told, Err(SessionError::Internal(_))) {
        thread::sleep(AFTERTHOUGHT);
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(reason) => told = Err(reason),
        }
    }
    told.map_err(|error| error.to_string())
}

/// The next bytes of a stream, asked a little later than it wakes who waits.
async fn patiently(stream: &mut XetDownloadStream) -> Result<Option<Vec<u8>>, SessionError> {
    let mut next = pin!(stream.next());
    let mut is_late = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_late, true) {
            thread::sleep(AFTERTHOUGHT);
        }
        next.as_mut().poll(context).map_ok(|bytes| bytes.map(Vec::from))
    })
    .await
}
