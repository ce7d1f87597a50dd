//! What a user sees of a run, and what the command does beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use olmo_model::Transformer;
use olmo_optim::BatchPlan;
use olmo_train::{Evaluation, Observer, StepMetrics, TrainConfig};

use super::beside::Beside;
#[cfg(all(feature = "tui", unix))]
use super::dashboard::Dashboard;
use super::evaluate::Evaluators;
#[cfg(feature = "net")]
use super::publish::Publisher;
#[cfg(feature = "net")]
use crate::failure;
use crate::interrupt::Interrupt;
use crate::{output, progress};

/// From one line about a run to the next, where no bar can be shown.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// Shows a run as a bar, or a line now and then where output goes to a file, or prints its steps as JSON; measures and publishes as configured.
pub(super) struct Shown {
    /// Hidden where there is a dashboard.
    bar: ProgressBar,
    #[cfg(all(feature = "tui", unix))]
    dashboard: Option<Dashboard>,
    json: bool,
    /// When a line was last printed where no bar can be.
    last_line: Option<Instant>,
    max_steps: u64,
    plan: BatchPlan,
    evaluators: Evaluators,
    #[cfg(feature = "net")]
    publisher: Option<Publisher>,
    interrupt: Interrupt,
    /// The first failure to print; the run goes on, it is the reader that has gone.
    broken: Option<io::Error>,
}

impl Shown {
    pub(super) fn new(
        config: &TrainConfig,
        beside: Beside,
        interrupt: &Interrupt,
        json: bool,
        tui: bool,
    ) -> Result<Self> {
        #[cfg(feature = "net")]
        let publisher = match beside.target {
            Some(target) => Some(target.start(&config.save_folder.join("checkpoints"))?),
            None => None,
        };
        let plan = config.batch_plan();
        let bar = if tui {
            ProgressBar::hidden()
        } else {
            progress::run(plan.tokens_of(config.max_duration.steps))
        };
        #[cfg(all(feature = "tui", unix))]
        let open = || {
            Dashboard::open(
                &config.run_name,
                config.max_duration.steps,
                plan.clone(),
                interrupt.clone(),
            )
        };
        Ok(Self {
            bar,
            // The last, since it takes the terminal that errors go to.
            #[cfg(all(feature = "tui", unix))]
            dashboard: tui.then(open).transpose()?,
            json,
            last_line: None,
            max_steps: config.max_duration.steps,
            plan,
            evaluators: beside.evaluators,
            #[cfg(feature = "net")]
            publisher,
            interrupt: interrupt.clone(),
            broken: None,
        })
    }

    /// Ends the showing; what could not be printed or published is an error.
    pub(super) fn finish(self) -> Result<()> {
        self.bar.finish_and_clear();
        #[cfg(all(feature = "tui", unix))]
        drop(self.dashboard);
        #[cfg(feature = "net")]
        if let Some(publisher) = self.publisher {
            publisher.finish()?;
        }
        match self.broken {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// What a user should know.
    fn say(&self, text: &str) {
        #[cfg(all(feature = "tui", unix))]
        if let Some(dashboard) = &self.dashboard {
            dashboard.say(text);
            return;
        }
        self.bar.suspend(|| output::complain(text));
    }

    /// Where output goes to a file, how the run goes: in a line at its first step, and then now and then.
    fn print_line(&mut self, step: u64, message: &str) {
        let is_shown = self.json || !self.bar.is_hidden() || self.has_dashboard();
        if !is_shown && self.last_line.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) {
            output::complain(&format!("step {step}/{}  {message}", self.max_steps));
            self.last_line = Some(Instant::now());
        }
    }

    #[cfg(all(feature = "tui", unix))]
    fn has_dashboard(&self) -> bool {
        self.dashboard.is_some()
    }

    #[cfg(not(all(feature = "tui", unix)))]
    #[expect(clippy::unused_self, reason = "there is none in this build")]
    fn has_dashboard(&self) -> bool {
        false
    }

    /// What is good to know where someone watches.
    fn mention(&self, text: &str) {
        #[cfg(all(feature = "tui", unix))]
        if let Some(dashboard) = &self.dashboard {
            dashboard.say(text);
        }
        if !self.bar.is_hidden() {
            self.bar.println(text);
        }
    }
}

impl Observer for Shown {
    fn on_start(&mut self, step: u64, _: u64) {
        self.bar.set_prefix(format!("{step}/{}", self.max_steps));
        self.bar.set_position(self.plan.tokens_of(step));
        self.bar.reset_eta();
        #[cfg(all(feature = "tui", unix))]
        if let Some(dashboard) = &self.dashboard {
            dashboard.start_at(step);
        }
    }

    fn on_step(&mut self, metrics: &StepMetrics) {
        #[cfg(all(feature = "tui", unix))]
        if let Some(dashboard) = &self.dashboard {
            dashboard.step(metrics);
        }
        self.bar.set_prefix(format!("{}/{}", metrics.step, self.max_steps));
        self.bar.set_position(self.plan.tokens_of(metrics.step));
        let mut message = format!(
            "loss {:.3}  lr {:.1e}  {:.0} tokens/s",
            metrics.cross_entropy, metrics.learning_rate, metrics.tokens_per_second
        );
        if let Some(mfu) = metrics.speed.mfu {
            let _ = write!(message, "  MFU {mfu:.0} %");
        }
        self.print_line(metrics.step, &message);
        self.bar.set_message(message);
        if self.json
            && self.broken.is_none()
            && let Err(error) = output::json(metrics)
        {
            self.broken = Some(error);
        }
    }

    fn evaluate(&mut self, _: u64, model: &Transformer) -> Evaluation {
        self.evaluators.run(model, &self.interrupt).map_err(Into::into)
    }

    fn on_scores(&mut self, step: u64, scores: &BTreeMap<String, f64>) {
        for (name, value) in scores.iter().filter(|(name, _)| name.ends_with("Loss")) {
            self.mention(&format!("step {step}  {name} {value:.4}"));
        }
    }

    fn on_checkpoint(&mut self, path: &Path) {
        self.mention(&format!("saved {}", path.display()));
        #[cfg(feature = "net")]
        if let Some(publisher) = &self.publisher
            && let Err(error) = publisher.send(path)
        {
            let error = failure::told(&error, ": ");
            self.say(&format!("warning: {} is not pushed: {error}", path.display()));
        }
    }

    fn on_save_failed(&mut self, error: &olmo_train::Error) {
        self.say(&format!("warning: not saved, which is tried again: {error}"));
    }

    fn on_prune_failed(&mut self, error: &olmo_train::Error) {
        self.say(&format!("warning: an older checkpoint is still there: {error}"));
    }

    fn on_skip(&mut self, notice: &str) {
        self.say(&format!("warning: {notice}"));
    }
}
