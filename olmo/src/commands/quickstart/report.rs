//! `report.html`: a run on one page that needs nothing else.

use crate::commands::report::metric_chart;
use crate::commands::report::run::Run;
use crate::page::{self, escaped};

/// What the page shows.
pub(super) struct Page<'a> {
    pub(super) summary: String,
    pub(super) run: Run,
    pub(super) samples: &'a [String],
    pub(super) config: &'a str,
}

impl Page<'_> {
    pub(super) fn html(self) -> String {
        let Self { summary, run, samples, config } = self;
        let runs = [run];
        let loss = metric_chart(&runs, "train/CrossEntropyLoss");
        let rate = metric_chart(&runs, "optim/learning_rate_group0");
        let samples: Vec<String> =
            samples.iter().map(|text| format!("<pre>{}</pre>", escaped(text))).collect();
        let samples = samples.concat();
        let body = format!(
            "<p>{}</p><h2>Cross-entropy, nats per token</h2>{loss}<h2>Learning rate</h2>{rate}\
             <h2>Samples</h2>{samples}<h2>Configuration</h2><pre>{}</pre>",
            escaped(&summary),
            escaped(config),
        );
        page::html("OLMo quickstart", &body)
    }
}
