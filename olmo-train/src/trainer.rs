//! The loop: batches in, steps made, checkpoints and metrics out.

mod inputs;
mod measure;
mod saving;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use olmo_data::{Batch, DataLoader};
use olmo_hub::{clean_leftovers, write_atomic};
use olmo_model::Transformer;
use olmo_optim::{AdaptiveClip, Optimizer, ParamGroups, UpdateOptions};

use self::inputs::Inputs;
pub use self::inputs::check_files;
use crate::checkpoint::{self, DataIdentity, Loaded, Saver};
use crate::config::{Position, TrainConfig};
use crate::data::OpenData;
use crate::error::Error;
use crate::evaluation::TokenSets;
use crate::faults::Faults;
use crate::metrics::{MetricsFile, ParameterMetrics, Speedometer, StepMetrics};
use crate::observer::{Observer, Outcome};
use crate::start::{self, Start, lock};
use crate::step::{Clipping, Gradients, batch_gradients, clip};

/// A run: model, optimizer, data, and where they stand.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    /// Taken out while it is updated, so that there is one handle to each weight.
    model: Option<Transformer>,
    optimizer: Box<dyn Optimizer>,
    groups: ParamGroups,
    opened: OpenData,
    loader: DataLoader,
    data: DataIdentity,
    metrics: MetricsFile,
    /// Of steps that have metrics of each parameter.
    of_parameters: ParameterMetrics,
    speedometer: Speedometer,
    faults: Faults,
    /// What is measured on the way.
    sets: TokenSets,
    /// Whether the run is yet to be measured where it begins.
    measures_on_load: bool,
    /// Averages of gradient norms, which adaptive clipping goes by.
    averages: AdaptiveClip,
    /// Where a warmup was put into the schedule.
    warmup_start: Option<u64>,
    global_step: u64,
    /// The last step that this start of the run makes.
    last_step: u64,
    total_tokens: u64,
    /// The least loss since the run was started.
    least_loss: f64,
    saver: Saver,
    last_save_failed: bool,
    set_aside: Vec<(PathBuf, Error)>,
    /// Held as long as the run is open, so that no other process writes to its folder.
    _lock: File,
}

impl Trainer {
    /// Opens data and model, and goes on from the newest checkpoint in the run's folder if there
    /// is one. Each of its files is checked against what was written. The folder is made once all
    /// that the run reads has been opened.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but [`Error::NonFinite`]: files that are missing, damaged or of another run;
    /// [`Error::InUse`] where another process trains in the folder.
    pub fn new(mut config: TrainConfig, device: &Device) -> Result<Self, Error> {
        config.precision.check(device)?;
        let checkpoints = config.save_folder.join("checkpoints");
        // Before there is a folder, so that a slip in a path leaves none.
        let Inputs { opened, sets } = Inputs::open(&config, &checkpoints)?;
        fs::create_dir_all(&checkpoints)
            .map_err(|source| Error::Io { path: checkpoints.clone(), source })?;
        let lock = lock(&config.save_folder)?;
        clean_leftovers(&config.save_folder)?;
        clean_leftovers(&checkpoints)?;
        let data = DataIdentity::new(&config, &opened);
        let mut optimizer = config.optimizer.build(&config.model)?;
        let checkpoint::Found { newest, set_aside } =
            checkpoint::find(&checkpoints, config.on_damaged_checkpoint)?;
        let start = match &newest {
            Some((_, dir)) => {
                let Loaded { model, state } =
                    checkpoint::load(dir, &config.model, &data, optimizer.as_mut(), device)?;
                Start::resumed(model, state)
            }
            None => start::begin(&config, &data, optimizer.as_mut(), device)?,
        };
        let Start { global_step, total_tokens, .. } = start;
        config.go_on_after(global_step, total_tokens);
        write_atomic(&config.save_folder.join("config.yaml"), |file| {
            Ok::<_, Error>(file.put(config.to_yaml()?.as_bytes())?)
        })?;
        let mut metrics =
            MetricsFile::open_after(&config.save_folder.join("metrics.jsonl"), global_step)?;
        if config.tensorboard {
            let folder = config.save_folder.join("tensorboard");
            metrics = metrics.with_tensorboard(&folder, global_step)?;
        }
        let speedometer = Speedometer::new(
            &config.model,
            config.data.sequence_length,
            config.compat,
            config.device_peak_flops,
            config.energy,
            device,
            metrics.kwh(),
        );
        if let Some(warmup_start) = start.rewarms_from {
            config.bolt_on_warmup(warmup_start);
        }
        let last_step = config.last_step(global_step);
        let was_due = !config.evaluators.is_empty()
            && measure::is_due(config.eval_interval, global_step, last_step);
        let measures_on_load =
            config.eval_on_load || (was_due && metrics.lacks_scores(global_step)?);
        Ok(Self {
            groups: config.optimizer.groups(&config.model)?,
            loader: opened.loader(&config, total_tokens, start.loader)?,
            opened,
            metrics,
            of_parameters: ParameterMetrics::new(&config),
            speedometer,
            faults: Faults::new(config.faults, start.spikes)?,
            sets,
            measures_on_load,
            total_tokens,
            saver: Saver::new(checkpoints, config.save_rules(), config.save_async, newest),
            averages: start.averages,
            warmup_start: start.rewarms_from,
            last_step,
            least_loss: f64::INFINITY,
            last_save_failed: false,
            set_aside,
            _lock: lock,
            model: Some(start.model),
            config,
            optimizer,
            data,
            global_step,
        })
    }

    /// The configuration of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Sets the device's FLOPs per second at most, which MFU is measured by.
    pub fn set_peak_flops(&mut self, peak_flops: f64) {
        self.speedometer.peak_flops = Some(peak_flops);
    }

    /// Steps made.
    pub fn global_step(&self) -> u64 {
        self.global_step
    }

    /// The model as it is now.
    ///
    /// # Panics
    ///
    /// After a step has failed with [`Error::Optim`], which loses it.
    pub fn model(&self) -> &Transformer {
        self.model.as_ref().expect("no update has failed")
    }

    /// The newest checkpoint's folder.
    pub fn last_checkpoint(&self) -> Option<&Path> {
        self.saver.newest().map(|(_, path)| path)
    }

    /// Damaged checkpoints that were set aside to go on from one before them: where they are now,
    /// and what is wrong with each.
    pub fn set_aside(&self) -> &[(PathBuf, Error)] {
        &self.set_aside
    }

    /// Makes steps until the run is done or `stop` is set, saving on the way and at the end.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; the checkpoints made before it are whole. A save that fails is one where it is
    /// the last of the run or the second in a row.
    pub fn run(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, Error> {
        let rules = self.config.save_rules();
        observer.on_start(self.global_step, self.last_step);
        self.measure_on_load(observer, stop)?;
        while self.global_step < self.last_step {
            if stop.load(Ordering::Relaxed) {
                self.save_at_the_end(observer)?;
                return Ok(Outcome::Interrupted);
            }
            let metrics = self.step()?;
            if let Some(notice) = self.faults.take_notice() {
                observer.on_skip(&notice);
            }
            let scores = self.measure_if_due(observer, stop)?;
            let mut measured = self.of_parameters.take();
            measured.extend(scores.clone());
            self.metrics.append(&metrics, &measured)?;
            observer.on_step(&metrics);
            if !scores.is_empty() {
                observer.on_scores(self.global_step, &scores);
            }
            if let Some(saved) = self.saver.poll() {
                self.report_saved(saved, observer)?;
            }
            if let Some(kept) = rules.at(self.global_step, self.last_step) {
                self.begin_save(kept, observer)?;
            }
            if self.has_loss_risen(&metrics) {
                self.save_at_the_end(observer)?;
                return Ok(Outcome::LossRose);
            }
        }
        self.save_at_the_end(observer)?;
        Ok(Outcome::Finished)
    }

    /// Whether the loss is too many times the least one, after the warmup.
    fn has_loss_risen(&mut self, metrics: &StepMetrics) -> bool {
        let Some(factor) = self.config.early_stopping_factor else { return false };
        let loss = metrics.cross_entropy;
        self.least_loss = self.least_loss.min(loss);
        let (step, tokens) = (metrics.step, metrics.total_tokens);
        let is_warm = self.config.is_warm_at(Position { step, tokens_before: tokens, tokens });
        is_warm && loss > factor * self.least_loss
    }

    /// One step: gradients of the whole batch, clipping, update.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] and [`Error::Spike`], before the weights are touched, where the rule is
    /// not to skip such a step; [`Error::Data`]; [`Error::Optim`].
    pub fn step(&mut self) -> Result<StepMetrics, Error> {
        let start = Instant::now();
        let epoch = self.loader.state().epoch;
        let batch = self.next_batch()?;
        let step = self.global_step + 1;
        let tokens = self.total_tokens + batch.tokens.len() as u64;
        let at = Position { step, tokens_before: self.total_tokens, tokens };
        let (losses, divisor, mut gradients) = batch_gradients(&self.config, self.model(), &batch);
        if divisor == 0.0 {
            return Err(Error::NoLabels { step });
        }
        let cross_entropy = losses.cross_entropy / divisor;
        let clipping = clip(&self.config, &gradients, &mut self.averages, at)?;
        let total_grad_norm = clipping.total_norm.value();
        let fault = self.faults.judge(cross_entropy, total_grad_norm, self.config.judges_norm());
        if let (Some(fault), Some(model)) = (fault, &self.model) {
            self.faults.handle(fault, step, &self.config, model, &batch)?;
        }
        let lr = self.config.learning_rate_at(at);
        if let Some(model) = &self.model {
            let (optimizer, averages) = (self.optimizer.as_ref(), &self.averages);
            self.of_parameters.before(step, model, &gradients, optimizer, &clipping, averages)?;
        }
        if fault.is_none() {
            self.update(&mut gradients, lr, &clipping)?;
            self.of_parameters.after(self.optimizer.as_ref(), lr)?;
        }
        self.global_step = step;
        self.total_tokens = tokens;
        let z_loss = self.config.z_loss_factor();
        let routers = self.config.router_weights().per_layer(self.config.model.n_layers);
        let of_routers = |weight: f64, sum: f64| (weight > 0.0).then(|| weight * sum / divisor);
        let grows = self.config.batch_size_warmup.is_some();
        let elapsed = start.elapsed();
        Ok(StepMetrics {
            step,
            cross_entropy,
            perplexity: cross_entropy.exp(),
            z_loss: (z_loss > 0.0).then(|| z_loss * losses.squared_lse / divisor),
            load_balancing_loss: of_routers(routers.load_balancing, losses.load_balancing),
            router_z_loss: of_routers(routers.z, losses.router_z),
            load_imbalance: losses.load_imbalance(),
            total_grad_norm,
            clip_coefficient: clipping.coefficient,
            step_skipped: self.config.step_skipped(fault.is_some()),
            learning_rate: lr,
            global_batch_size: grows.then_some(batch.tokens.len() as u64),
            epoch,
            total_tokens: self.total_tokens,
            tokens_per_second: batch.tokens.len() as f64 / elapsed.as_secs_f64(),
            speed: self.speedometer.read(elapsed, batch.tokens.len() as u64, self.total_tokens),
        })
    }

    /// The next batch, of the size that the plan has for it.
    fn next_batch(&mut self) -> Result<Batch, Error> {
        let size = self.config.batch_plan().batch_size(self.total_tokens);
        if size != self.loader.config().global_batch_size {
            // What was read ahead is read again, in larger batches.
            let state = self.loader.state();
            self.loader = self.opened.loader(&self.config, self.total_tokens, state)?;
        }
        Ok(self.loader.next_batch()?)
    }

    fn update(
        &mut self,
        gradients: &mut Gradients,
        lr: f64,
        clipping: &Clipping,
    ) -> Result<(), Error> {
        let Self { optimizer, groups, model, .. } = self;
        let updated = model.take().map(|model| {
            model.map_parameters(|path, weight| {
                let Some(gradient) = gradients.take(path) else { return Ok(weight) };
                let weight_decay = groups.weight_decay(path).unwrap_or(0.0);
                let grad_scale = clipping.factor(path);
                let options = UpdateOptions { lr, weight_decay, grad_scale };
                optimizer.update(path, weight, gradient, &options)
            })
        });
        *model = updated.transpose()?;
        Ok(())
    }
}
