//! `olmo data inspect`: what a run saw at a step, and when it saw a document.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use clap::Args;
use olmo_data::inspect::{InspectedInstance, Sighting};
use olmo_data::official::{MaxDuration, OfficialRun, OfficialYaml};
use olmo_data::{
    BatchOrder, DataLoader, DataLoaderConfig, GlobalIndices, Inspector, InstanceTable, LoaderState,
    PathMap, PathRule, Tail, TokenDtype, Tokenizer, describe_instances,
};
use olmo_train::TrainConfig;
use olmo_train::data::{self, OpenData};
use olmo_train::data_config::DatasetConfig;
use serde::Serialize;

use crate::{output, progress};

/// Characters of an instance's text that are shown without --json.
const SHOWN: usize = 240;

/// Print the instances of one step: file, offset, documents, text
///
/// CONFIG is a configuration of OLMo's original trainer as it is, or one of ours, with either order
/// and any dataset; those of OLMo-core are Python programs, which cannot be read: write their data
/// into one of ours. Of the token files only the sizes are needed, their `.csv.gz` for documents,
/// their tokens for text, and where instances are made of documents. The order is found again from
/// the seed, or read from a saved `global_indices.npy`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  olmo data inspect OLMo-7B.yaml --step 1000 --path-map https://olmo-data.org=/data --json")]
pub(crate) struct Inspect {
    /// Configuration of the run
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Step, 1 being the first batch; at step 0 nothing has been seen
    #[arg(long, value_name = "N", required_unless_present = "find", conflicts_with = "find")]
    step: Option<u64>,
    /// Only the instances of one rank, from 0; needs --world-size
    #[arg(long, value_name = "R", requires = "world_size")]
    rank: Option<usize>,
    /// Number of ranks that share a batch
    #[arg(long, value_name = "W")]
    world_size: Option<usize>,
    /// Order that the run has saved, of the epoch that the step is in
    #[arg(long, value_name = "FILE")]
    global_indices: Option<PathBuf>,
    /// Where files are now: the beginning of their paths, and what stands in its place
    #[arg(long, value_name = "FROM=TO")]
    path_map: Vec<PathRule>,
    /// tokenizer.json, where it is not where the configuration says
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Print the steps at which the document of this id was seen instead
    #[arg(long, value_name = "DOC_ID")]
    find: Option<String>,
    /// Print JSON, with the whole texts
    #[arg(long)]
    json: bool,
}

/// What the verb needs of a configuration.
struct Run {
    paths: Vec<String>,
    dtype: TokenDtype,
    sequence_length: usize,
    global_batch_size: usize,
    seed: u64,
    epoch: u64,
    tail: Tail,
    /// Chunk size in OLMo-core's order.
    chunk_size: Option<usize>,
    max_target_sequence_length: Option<usize>,
    max_duration: Option<MaxDuration>,
    tokenizer: Option<String>,
    /// Of the configuration itself; ours has followed it already.
    path_map: PathMap,
}

/// A configuration of either kind.
enum Config {
    /// Instances are pieces of files, whose sizes tell all.
    Pieces(Run),
    /// Ours, with instances that are made of more than that.
    Instances(Box<TrainConfig>),
}

#[derive(Debug, Serialize)]
struct StepReport {
    step: u64,
    instances: Vec<InspectedInstance>,
}

#[derive(Debug, Serialize)]
struct FindReport<'a> {
    document: &'a str,
    sightings: Vec<Sighting>,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<()> {
        let rules = self.path_map.iter().cloned();
        let mut run = match read(&self.config)? {
            Config::Pieces(run) => run,
            Config::Instances(config) => return self.instances(*config, &PathMap::new(rules)),
        };
        let map = std::mem::take(&mut run.path_map).with(rules);
        let files = files(&run.paths, &map)?;
        let mut table = InstanceTable::open(files, run.dtype, run.sequence_length)?;
        if let Some(max) = run.max_target_sequence_length {
            table = table.with_max_target_sequence_length(max)?;
        }
        let mut inspector =
            Inspector::new(table, run.global_batch_size, run.seed, run.epoch, run.tail)?;
        if let Some(chunk_size) = run.chunk_size {
            inspector = inspector.with_olmo_core_order(chunk_size);
        }
        if let Some(path) = &self.global_indices {
            inspector = inspector.with_global_indices(GlobalIndices::open(path)?)?;
        }
        let per_epoch = inspector.steps_per_epoch();
        let tokens_per_step = (run.global_batch_size * run.sequence_length) as u64;
        let last = run.max_duration.map(|duration| duration.steps(per_epoch, tokens_per_step));
        if let Some(id) = &self.find {
            return self.find(&inspector, id, last);
        }
        let step = self.step.unwrap_or(0);
        if let (Some(last), Some(duration)) = (last, run.max_duration) {
            ensure!(step <= last, "step {step} is past step {last}, the run's last ({duration})");
        }
        let bar = progress::open_ended("following the shuffle");
        let mut indices = inspector.batch(step)?;
        if let (Some(rank), Some(world_size)) = (self.rank, self.world_size) {
            ensure!(rank < world_size, "--rank is {rank}, expected less than {world_size}");
            ensure!(
                run.global_batch_size.is_multiple_of(world_size),
                "--world-size is {world_size}, expected a divisor of the batch of {}",
                run.global_batch_size
            );
            indices = indices.into_iter().skip(rank).step_by(world_size).collect();
        }
        let tokenizer = self.tokenizer(run.tokenizer.as_deref(), &map)?;
        let instances = inspector.describe(&indices, tokenizer.as_ref())?;
        bar.finish_and_clear();
        self.print(StepReport { step, instances })
    }

    /// A step of a run whose instances are made of documents, or have masks.
    fn instances(&self, mut config: TrainConfig, map: &PathMap) -> Result<()> {
        ensure!(
            self.find.is_none() && self.global_indices.is_none(),
            "--find and --global-indices work only where instances are pieces of files, \
             `data.dataset: {{name: fsl}}` without masks, filter and permutation, in \
             batches of one size"
        );
        let resolve = |path: &mut PathBuf| -> Result<()> {
            *path = map.resolve(&path.display().to_string())?;
            Ok(())
        };
        config.data.paths.iter_mut().try_for_each(resolve)?;
        config.data.label_mask_paths.iter_mut().flatten().try_for_each(resolve)?;
        if let DatasetConfig::FslMixture { sources, .. } = &mut config.data.dataset {
            sources.iter_mut().flat_map(|source| &mut source.paths).try_for_each(resolve)?;
        }
        if let DatasetConfig::InterleavedFsl { interleaving_exempt_paths: Some(paths), .. } =
            &mut config.data.dataset
        {
            paths.iter_mut().try_for_each(resolve)?;
        }
        let step = self.step.unwrap_or(0);
        let last = config.max_duration.steps;
        ensure!(step <= last, "step {step} is past step {last}, the run's last");
        let bar = progress::open_ended("making the instances");
        let OpenData { instances, .. } = data::open(&config)?;
        let ranks = self.rank.zip(self.world_size);
        let (rank, world_size) = ranks.unwrap_or((0, 1));
        let plan = config.batch_plan();
        let tokens = plan.tokens_of(step.saturating_sub(1));
        let global_batch_size = plan.batch_size(tokens);
        let settings = DataLoaderConfig {
            global_batch_size,
            rank,
            world_size,
            prefetch: 0,
            ..config.loader()
        };
        let beginning = DataLoader::new(Arc::clone(&instances), settings, LoaderState::default())?;
        let mut reports = Vec::new();
        if let Some(number) = step.checked_sub(1) {
            let per_epoch = beginning.n_batches_per_epoch() as u64;
            let seen = number % per_epoch;
            let mut state = LoaderState {
                epoch: beginning.state().epoch + number / per_epoch,
                n_instances_seen: seen as usize * config.global_train_batch_size,
                n_tokens_seen: seen * config.tokens_per_step(),
            };
            if config.batch_size_warmup.is_some() {
                let n_instances_seen = tokens as usize / config.data.sequence_length;
                ensure!(
                    n_instances_seen + global_batch_size <= instances.len(),
                    "step {step} is after the first epoch, expected one in it where batches grow"
                );
                state = LoaderState { epoch: 0, n_instances_seen, n_tokens_seen: tokens };
            }
            let mut loader = DataLoader::new(Arc::clone(&instances), settings, state)?;
            let indices = loader.next_batch()?.indices;
            let named = config.tokenizer.as_ref().map(|path| path.display().to_string());
            let tokenizer = self.tokenizer(named.as_deref(), map)?;
            let dtype = config.data.memmap_dtype;
            reports = describe_instances(&instances, dtype, &indices, tokenizer.as_ref())?;
        }
        bar.finish_and_clear();
        self.print(StepReport { step, instances: reports })
    }

    /// Prints when a document was seen up to the run's last step, or in the first epoch.
    fn find(&self, inspector: &Inspector, id: &str, last: Option<u64>) -> Result<()> {
        let per_epoch = inspector.steps_per_epoch();
        let last = last.unwrap_or(per_epoch);
        let bar = progress::open_ended("looking through the documents");
        let mut sightings = inspector.find(id, last.div_ceil(per_epoch).max(1))?;
        bar.finish_and_clear();
        sightings.retain(|sighting| sighting.step <= last);
        if self.json {
            return Ok(output::json(&FindReport { document: id, sightings })?);
        }
        if sightings.is_empty() {
            let any = inspector
                .table()
                .files()
                .any(|(path, _)| olmo_data::DocumentBounds::path_for(path).exists());
            ensure!(any, "no token file has a .csv.gz beside it, so documents cannot be found");
            return Ok(output::line(format!("no step up to {last} has seen document {id:?}"))?);
        }
        for Sighting { step, row, index, path, document, .. } in sightings {
            output::line(format!(
                "step {step} row {row}: instance {index}, {path} tokens {}..{}",
                document.start, document.end
            ))?;
        }
        Ok(())
    }

    /// The tokenizer that was asked for, or the configuration's where its file is there.
    fn tokenizer(&self, named: Option<&str>, map: &PathMap) -> Result<Option<Tokenizer>> {
        if let Some(path) = &self.tokenizer {
            return Ok(Some(Tokenizer::from_file(path)?));
        }
        let Some(path) = named.and_then(|named| map.resolve(named).ok()) else { return Ok(None) };
        let beside = self.config.parent().map(|folder| folder.join(&path));
        let found = [Some(path), beside].into_iter().flatten().find(|path| path.is_file());
        Ok(found.map(Tokenizer::from_file).transpose()?)
    }

    fn print(&self, report: StepReport) -> Result<()> {
        if self.json {
            return Ok(output::json(&report)?);
        }
        if report.step == 0 {
            return Ok(output::line("nothing has been seen at step 0; step 1 is the first batch")?);
        }
        for InspectedInstance { index, path, byte_offset, documents, text } in report.instances {
            output::line(format!("instance {index}: {path} byte {byte_offset}"))?;
            for document in documents.iter().flatten() {
                let id = document.id.as_deref().unwrap_or("(no id)");
                let from = match (&document.source, document.line) {
                    (Some(source), Some(line)) => format!(", {source}:{line}"),
                    _ => String::new(),
                };
                output::line(format!("  document {id}{from}"))?;
            }
            if let Some(text) = text {
                let shown: String = text.chars().take(SHOWN).collect();
                let more = if shown.len() < text.len() { " …" } else { "" };
                output::line(format!("  {shown:?}{more}"))?;
            }
        }
        Ok(())
    }
}

/// Where the token files are, all of which must be there.
fn files(paths: &[String], map: &PathMap) -> Result<Vec<PathBuf>> {
    let place = |path: &String| map.resolve(path).unwrap_or_else(|_| path.into());
    let files: Vec<PathBuf> = paths.iter().map(place).collect();
    let mut missing = files.iter().filter(|path| !path.exists());
    if let Some(first) = missing.next() {
        let (n, n_files, first) = (1 + missing.count(), files.len(), first.display());
        bail!(
            "{n} of {n_files} token files are not here, the first {first}; \
             say where they are with --path-map FROM=TO, FROM being the beginning of such a path"
        );
    }
    Ok(files)
}

/// Reads a configuration of either kind.
fn read(path: &Path) -> Result<Config> {
    let yaml = OfficialYaml::read(path)?;
    // Only ours says under `data` how long an instance is.
    if yaml.raw().pointer("/data/sequence_length").is_some() {
        let config = TrainConfig::read(path, &[])?;
        let data = &config.data;
        let (chunk_size, max) = match (config.loader().order, &data.dataset) {
            (BatchOrder::Olmo, DatasetConfig::Fsl { .. }) => (None, None),
            (
                BatchOrder::OlmoCore { chunk_size },
                DatasetConfig::Fsl { max_target_sequence_length },
            ) => (Some(chunk_size), *max_target_sequence_length),
            _ => return Ok(Config::Instances(Box::new(config))),
        };
        let grows = config.batch_size_warmup.is_some();
        let is_permuted = data.source_permutation_seed.is_some();
        if data.label_mask_paths.is_some() || data.instance_filter.is_some() || grows || is_permuted
        {
            return Ok(Config::Instances(Box::new(config)));
        }
        return Ok(Config::Pieces(Run {
            paths: data.paths.iter().map(|path| path.display().to_string()).collect(),
            dtype: data.memmap_dtype,
            sequence_length: data.sequence_length,
            global_batch_size: config.global_train_batch_size,
            seed: config.data_seed(),
            epoch: u64::from(chunk_size.is_some()),
            tail: Tail::Drop,
            chunk_size,
            max_target_sequence_length: max,
            max_duration: Some(MaxDuration::Steps(config.max_duration.steps)),
            tokenizer: config.tokenizer.as_ref().map(|path| path.display().to_string()),
            path_map: PathMap::default(),
        }));
    }
    let run = OfficialRun::from_yaml(&yaml)?;
    if run.sequence_length == 0 {
        bail!("{}: model.max_sequence_length is 0, expected at least 1", path.display());
    }
    Ok(Config::Pieces(Run {
        paths: run.paths()?,
        dtype: run.data.memmap_dtype,
        sequence_length: run.sequence_length,
        global_batch_size: run.global_train_batch_size,
        seed: run.data_seed,
        epoch: run.epoch,
        tail: if run.data.drop_last { Tail::Drop } else { Tail::Pad },
        chunk_size: None,
        max_target_sequence_length: None,
        max_duration: run.max_duration,
        tokenizer: run.tokenizer,
        path_map: run.path_map,
    }))
}
