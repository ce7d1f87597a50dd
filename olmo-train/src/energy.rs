//! Energy of a run, and the carbon dioxide it stands for.
//!
//! `kg CO2e = kWh × PUE × kg per kWh`, as the OLMo paper (arXiv 2402.00838) reckons, where kWh is what
//! the devices draw and the power usage effectiveness says how much more the building does. The draw
//! is what is stated in the configuration; else, on the CPU, what the processor's own counters say
//! (RAPL, `/sys/class/powercap`); on an NVIDIA card, what `nvidia-smi` says. Where none of them is
//! there, no energy is reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Joules in a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;
/// Where the kernel shows the processor's counters.
const POWERCAP: &str = "/sys/class/powercap";
/// How long a reading of `nvidia-smi` holds: starting it takes some ten milliseconds.
const CARD_INTERVAL: Duration = Duration::from_secs(10);

/// What energy is reckoned by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnergyConfig {
    /// Power of the devices in watts; measured where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_watts: Option<f64>,
    /// Power usage effectiveness of the building.
    pub pue: f64,
    /// Kilograms of carbon dioxide equivalent for a kilowatt-hour.
    pub carbon_kg_per_kwh: f64,
}

impl Default for EnergyConfig {
    /// The paper's effectiveness, and a grid of 0.332 kg/kWh; both are to be stated for a real run.
    fn default() -> Self {
        Self { device_watts: None, pue: 1.1, carbon_kg_per_kwh: 0.332 }
    }
}

impl EnergyConfig {
    /// Everything that is wrong with it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let watts = self.device_watts.unwrap_or(0.0);
        [
            ("device_watts", watts, 0.0),
            ("pue", self.pue, 1.0),
            ("carbon_kg_per_kwh", self.carbon_kg_per_kwh, 0.0),
        ]
        .into_iter()
        .filter(|(_, value, least)| !(value.is_finite() && value >= least))
        .map(|(name, value, least)| {
            format!("energy.{name} is {value}, expected a number of at least {least}")
        })
        .collect()
    }

    /// Kilograms of carbon dioxide equivalent for some energy drawn by the devices.
    pub fn carbon_kg(&self, kwh: f64) -> f64 {
        kwh * self.pue * self.carbon_kg_per_kwh
    }
}

/// Adds up the energy of the devices.
#[derive(Debug)]
pub(crate) struct Meter {
    source: Source,
    joules: f64,
    since: Instant,
}

#[derive(Debug)]
enum Source {
    Stated(f64),
    Rapl(Vec<Counter>),
    Card { watts: f64, read: Instant },
    Unknown,
}

/// One energy counter of the kernel, in microjoules, that begins again from zero at its range.
#[derive(Debug)]
struct Counter {
    path: PathBuf,
    range: u64,
    last: u64,
}

impl Meter {
    /// A meter that goes on from the energy already drawn.
    pub(crate) fn new(config: &EnergyConfig, device: &str, kwh: f64) -> Self {
        let source = match config.device_watts {
            Some(watts) => Source::Stated(watts),
            None if device.to_lowercase().contains("cuda") => card_watts()
                .map_or(Source::Unknown, |watts| Source::Card { watts, read: Instant::now() }),
            None => match counters(Path::new(POWERCAP)) {
                counters if counters.is_empty() => Source::Unknown,
                counters => Source::Rapl(counters),
            },
        };
        Self { source, joules: kwh * JOULES_PER_KWH, since: Instant::now() }
    }

    /// Energy drawn so far in kWh, and the power since this was last asked in watts; nothing where
    /// neither is known.
    pub(crate) fn read(&mut self) -> Option<(f64, f64)> {
        let now = Instant::now();
        let seconds = now.duration_since(self.since).as_secs_f64();
        let joules = match &mut self.source {
            Source::Stated(watts) => *watts * seconds,
            Source::Rapl(counters) => counters.iter_mut().map(Counter::joules).sum(),
            Source::Card { watts, read } => {
                if now.duration_since(*read) >= CARD_INTERVAL {
                    (*watts, *read) = (card_watts().unwrap_or(*watts), now);
                }
                *watts * seconds
            }
            Source::Unknown => return None,
        };
        self.since = now;
        self.joules += joules;
        let watts = if seconds > 0.0 { joules / seconds } else { 0.0 };
        Some((self.joules / JOULES_PER_KWH, watts))
    }
}

impl Counter {
    fn open(folder: &Path) -> Option<Self> {
        let path = folder.join("energy_uj");
        let range = read_number(&folder.join("max_energy_range_uj"))?;
        Some(Self { last: read_number(&path)?, range, path })
    }

    /// Joules since this was last asked; none where the counter can no longer be read.
    fn joules(&mut self) -> f64 {
        let Some(now) = read_number(&self.path) else { return 0.0 };
        let past_the_end = if now < self.last { self.range } else { 0 };
        let difference = now + past_the_end - self.last;
        self.last = now;
        difference as f64 * 1e-6
    }
}

/// The counters of whole processors; those of their parts (`intel-rapl:0:1`) are within them.
fn counters(powercap: &Path) -> Vec<Counter> {
    let entries = fs::read_dir(powercap).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("intel-rapl:") && name.matches(':').count() == 1
        })
        .filter_map(|entry| Counter::open(&entry.path()))
        .collect()
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What all cards draw together.
fn card_watts() -> Option<f64> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=power.draw", "--format=csv,noheader,nounits"])
        .output()
        .ok()?;
    output.status.success().then(|| sum_of_lines(&String::from_utf8_lossy(&output.stdout)))?
}

fn sum_of_lines(text: &str) -> Option<f64> {
    text.lines().map(|line| line.trim().parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of arXiv 2402.00838: 104 MWh of A100s at 0.610 kg/kWh and a PUE of 1.1 are 70 t.
    #[test]
    fn carbon_is_that_of_the_paper() {
        let config = EnergyConfig { device_watts: None, pue: 1.1, carbon_kg_per_kwh: 0.610 };
        assert_eq!((config.carbon_kg(104_000.0) / 1000.0).round() as u32, 70);
        let free = EnergyConfig { carbon_kg_per_kwh: 0.0, ..config };
        assert!(free.carbon_kg(135_000.0) < 1e-9);
    }

    #[test]
    fn counters_of_processors_add_up_and_begin_again_at_their_range() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let set = |name: &str, energy: u64| {
            let zone = folder.path().join(name);
            fs::create_dir_all(&zone).expect("writable");
            fs::write(zone.join("energy_uj"), format!("{energy}\n")).expect("writable");
            fs::write(zone.join("max_energy_range_uj"), "10000000\n").expect("writable");
        };
        set("intel-rapl:0", 9_000_000);
        set("intel-rapl:1", 2_000_000);
        set("intel-rapl:0:0", 5_000_000);
        let mut meter = Meter {
            source: Source::Rapl(counters(folder.path())),
            joules: 1.0,
            since: Instant::now(),
        };
        set("intel-rapl:0", 1_000_000);
        set("intel-rapl:1", 5_000_000);
        set("intel-rapl:0:0", 9_000_000);
        let (kwh, _) = meter.read().expect("counters");
        assert!((kwh * JOULES_PER_KWH - 6.0).abs() < 1e-9, "1 before, 2 and 3 since: {kwh}");
    }

    #[test]
    fn stated_power_is_integrated_and_no_source_gives_none() {
        let config = EnergyConfig { device_watts: Some(100.0), ..EnergyConfig::default() };
        let mut meter = Meter::new(&config, "Flex", 2.0);
        meter.since = Instant::now().checked_sub(Duration::from_secs(36)).expect("later than that");
        let (kwh, watts) = meter.read().expect("stated");
        assert!((kwh - 2.001).abs() < 1e-5, "{kwh}");
        assert!((watts - 100.0).abs() < 1e-6, "{watts}");
        let mut none = Meter { source: Source::Unknown, joules: 0.0, since: Instant::now() };
        assert_eq!(none.read(), None);
        assert_eq!((sum_of_lines("61.5\n70.5\n"), sum_of_lines("[N/A]\n")), (Some(132.0), None));
        let wrong =
            EnergyConfig { device_watts: Some(-1.0), pue: 0.5, carbon_kg_per_kwh: f64::NAN };
        assert_eq!(wrong.problems().len(), 3);
    }
}
