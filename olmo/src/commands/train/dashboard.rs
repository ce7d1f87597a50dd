//! A run on the whole terminal: curves of loss, learning rate and tokens per second, and a log.
//!
//! Drawing and keys have a thread of their own, so that the screen answers during a long step too.
//! `q` or Ctrl-C stops the run after its step, and saves.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use olmo_optim::BatchPlan;
use olmo_train::StepMetrics;
use ratatui::backend::{Backend, TermionBackend};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};
use ratatui::{Frame, Terminal};
use termion::event::Key;
use termion::input::TermRead as _;
use termion::raw::IntoRawMode as _;
use termion::screen::IntoAlternateScreen as _;

use crate::interrupt::Interrupt;

/// How long the screen stands before it is drawn again.
const FRAME: Duration = Duration::from_millis(200);
/// Points of a curve that are kept; then every other one is dropped, and so on.
const N_POINTS: usize = 2000;
/// Lines of the log that are kept.
const N_LINES: usize = 200;

/// The screen of a run, restored when this is dropped.
pub(super) struct Dashboard {
    state: Arc<Mutex<State>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What is on the screen.
#[derive(Debug)]
struct State {
    title: String,
    max_steps: u64,
    plan: BatchPlan,
    last: Option<StepMetrics>,
    first_step: u64,
    since: Instant,
    curves: [Curve; 3],
    log: VecDeque<String>,
}

/// One curve, thinned as it grows.
#[derive(Debug)]
struct Curve {
    name: &'static str,
    points: Vec<(f64, f64)>,
    /// Steps between points.
    every: u64,
}

impl Dashboard {
    /// Takes the terminal.
    pub(super) fn open(
        title: &str,
        max_steps: u64,
        plan: BatchPlan,
        interrupt: Interrupt,
    ) -> io::Result<Self> {
        let screen = io::stdout().into_raw_mode()?.into_alternate_screen()?;
        let terminal = Terminal::new(TermionBackend::new(screen))?;
        let state = Arc::new(Mutex::new(State::new(title, max_steps, plan)));
        let done = Arc::new(AtomicBool::new(false));
        let (shown, ended) = (Arc::clone(&state), Arc::clone(&done));
        let thread = thread::Builder::new()
            .name("dashboard".to_owned())
            .spawn(move || show(terminal, &shown, &ended, &interrupt))?;
        Ok(Self { state, done, thread: Some(thread) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start_at(&self, step: u64) {
        let mut state = self.state();
        (state.first_step, state.since) = (step, Instant::now());
    }

    pub(super) fn step(&self, metrics: &StepMetrics) {
        self.state().step(metrics);
    }

    /// Adds a line to the log.
    pub(super) fn say(&self, text: &str) {
        self.state().say(text);
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The terminal is restored where the thread drops it, however it ends.
            let _ = thread.join();
        }
        // What comes next goes to standard error, which does not wait for this.
        let _ = io::stdout().flush();
    }
}

fn show<B: Backend<Error = io::Error>>(
    mut terminal: Terminal<B>,
    state: &Mutex<State>,
    done: &AtomicBool,
    interrupt: &Interrupt,
) -> io::Result<()> {
    let mut keys = termion::async_stdin().keys();
    let state = || state.lock().unwrap_or_else(PoisonError::into_inner);
    while !done.load(Ordering::Relaxed) {
        terminal.draw(|frame| state().draw(frame))?;
        thread::sleep(FRAME);
        while let Some(key) = keys.next().transpose()? {
            if matches!(key, Key::Char('q') | Key::Ctrl('c')) && !interrupt.is_asked() {
                interrupt.ask();
                state().say("stopping after this step, and saving");
            }
        }
    }
    Ok(())
}

impl State {
    fn new(title: &str, max_steps: u64, plan: BatchPlan) -> Self {
        let curve = |name| Curve { name, points: Vec::new(), every: 1 };
        Self {
            title: title.to_owned(),
            max_steps,
            plan,
            last: None,
            first_step: 0,
            since: Instant::now(),
            curves: ["loss", "learning rate", "tokens/s"].map(curve),
            log: VecDeque::new(),
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let StepMetrics { step, cross_entropy, learning_rate, tokens_per_second, .. } = *metrics;
        for (curve, value) in
            self.curves.iter_mut().zip([cross_entropy, learning_rate, tokens_per_second])
        {
            curve.push(step, value);
        }
        self.last = Some(*metrics);
    }

    fn say(&mut self, text: &str) {
        self.log.extend(text.lines().map(ToOwned::to_owned));
        let excess = self.log.len().saturating_sub(N_LINES);
        self.log.drain(..excess);
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, loss, others, log] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(8),
            Constraint::Percentage(30),
            Constraint::Length(7),
        ])
        .areas(frame.area());
        let [rate, speed] = Layout::horizontal([Constraint::Fill(1); 2]).areas(others);
        self.draw_head(frame, head);
        for (curve, area) in self.curves.iter().zip([loss, rate, speed]) {
            curve.draw(frame, area);
        }
        let n_lines = usize::from(log.height.saturating_sub(2));
        let skipped = self.log.len().saturating_sub(n_lines);
        let lines: Vec<Line<'_>> =
            self.log.iter().skip(skipped).map(|line| Line::raw(line.as_str())).collect();
        let title = Block::bordered().title("log").title_bottom("q: stop and save");
        frame.render_widget(Paragraph::new(lines).block(title), log);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let step = self.last.map_or(self.first_step, |last| last.step);
        // Steps may have more and more tokens, so time goes by these.
        let tokens = |steps| self.plan.tokens_of(steps);
        let mut label = format!("step {step} of {}", self.max_steps);
        if let Some(last) = self.last {
            // Writing to a string does not fail.
            let (loss, speed) = (last.cross_entropy, last.tokens_per_second);
            let _ = write!(label, "  loss {loss:.3}  {speed:.0} tokens/s");
            if let Some(mfu) = last.speed.mfu {
                let _ = write!(label, "  MFU {mfu:.0} %");
            }
            let between = |from, to| tokens(to).saturating_sub(tokens(from));
            let (made, left) = (between(self.first_step, step), between(step, self.max_steps));
            if made > 0 {
                let seconds = self.since.elapsed().as_secs_f64() / made as f64 * left as f64;
                let _ = write!(label, "  {} left", hours(seconds));
            }
        }
        let share = tokens(step) as f64 / tokens(self.max_steps).max(1) as f64;
        let share = share.clamp(0.0, 1.0);
        let gauge = Gauge::default()
            .block(Block::bordered().title(self.title.as_str()))
            .gauge_style(Style::new().fg(Color::Blue))
            .ratio(share)
            .label(label);
        frame.render_widget(gauge, area);
    }
}

/// `1:02:03`
fn hours(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

impl Curve {
    fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() || !step.is_multiple_of(self.every) {
            return;
        }
        self.points.push((step as f64, value));
        if self.points.len() > N_POINTS {
            self.every *= 2;
            let every = self.every;
            self.points.retain(|(step, _)| (*step as u64).is_multiple_of(every));
        }
    }

    fn draw(&self, frame: &mut Frame<'_>, area: Rect) {
        let range = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) =
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
            // A flat curve, or none, still needs a height.
            match (low.is_finite(), low < high) {
                (false, _) => [0.0, 1.0],
                (true, false) => [low - low.abs().max(1e-9) * 0.1, low + low.abs().max(1e-9) * 0.1],
                (true, true) => [low, high],
            }
        };
        let steps = range(&mut self.points.iter().map(|point| point.0));
        let values = range(&mut self.points.iter().map(|point| point.1));
        let number = |value: f64| match value.abs() {
            small if small < 0.01 && small > 0.0 => format!("{value:.1e}"),
            middle if middle < 100.0 => format!("{value:.2}"),
            _ => format!("{value:.0}"),
        };
        let data = Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(Color::Cyan))
            .data(&self.points);
        let chart = Chart::new(vec![data])
            .block(Block::bordered().title(self.name))
            .x_axis(Axis::default().bounds(steps).labels(steps.map(|step| format!("{step:.0}"))))
            .y_axis(Axis::default().bounds(values).labels(values.map(number)));
        frame.render_widget(chart, area);
    }
}

#[cfg(test)]
mod tests {
    use olmo_train::Speed;
    use ratatui::backend::TestBackend;

    use super::*;

    fn metrics(step: u64, cross_entropy: f64) -> StepMetrics {
        StepMetrics {
            step,
            cross_entropy,
            perplexity: 1.0,
            z_loss: None,
            load_balancing_loss: None,
            router_z_loss: None,
            load_imbalance: None,
            total_grad_norm: 1.0,
            clip_coefficient: 1.0,
            step_skipped: None,
            global_batch_size: None,
            learning_rate: 1e-3,
            epoch: 0,
            total_tokens: 1,
            tokens_per_second: 1234.0,
            speed: Speed { mfu: Some(41.6), ..Speed::default() },
        }
    }

    fn screen(state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 40)).unwrap();
        terminal.draw(|frame| state.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect()
    }

    #[test]
    fn the_screen_shows_how_a_run_goes() {
        let mut state = State::new("small", 100, BatchPlan::new(8, 16, None));
        let empty = screen(&state);
        assert!(empty.contains("step 0 of 100") && empty.contains("q: stop and save"), "{empty}");
        for step in 1..=50 {
            state.step(&metrics(step, 8.0 - step as f64 * 0.1));
        }
        state.step(&metrics(51, f64::NAN));
        state.say("saved runs/small/checkpoints/step50\nsecond line");
        let shown = screen(&state);
        for part in [
            "step 51 of 100",
            "1234 tokens/s",
            "MFU 42 %",
            "left",
            "saved runs/small",
            "second line",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        // Range of the loss at its axis, and a line of braille.
        assert!(shown.contains("7.90") && shown.contains("3.00"), "{shown}");
        assert!(shown.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{shown}");
    }

    #[test]
    fn a_long_curve_is_thinned_evenly() {
        let mut curve = Curve { name: "x", points: Vec::new(), every: 1 };
        for step in 1..=20_000 {
            curve.push(step, 1.0);
        }
        assert!((N_POINTS / 2..=N_POINTS).contains(&curve.points.len()), "{}", curve.points.len());
        let gaps = curve.points.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.into_iter().all(|gap| (gap - curve.every as f64).abs() < 1e-9));
        assert_eq!(hours(3723.9), "1:02:03");
    }
}
