//! `report.html`: a run on one page that needs nothing else.

use std::fmt::Write as _;

use olmo_train::StepMetrics;

/// What the page shows.
pub(super) struct Page<'a> {
    pub(super) summary: String,
    pub(super) metrics: &'a [StepMetrics],
    pub(super) samples: &'a [String],
    pub(super) config: &'a str,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;\
color-scheme:light dark}pre{white-space:pre-wrap;font-size:13px;padding:1rem;border:1px solid #8884;\
border-radius:6px}svg{width:100%;height:auto}text{font:11px system-ui,sans-serif;fill:currentColor}\
polyline{fill:none;stroke:#2b7de9;stroke-width:1.5}line{stroke:currentColor;opacity:.25}";

impl Page<'_> {
    pub(super) fn html(&self) -> String {
        let loss = chart(self.metrics, |m| m.cross_entropy, |y| format!("{y:.2}"));
        let rate = chart(self.metrics, |m| m.learning_rate, |y| format!("{y:.1e}"));
        let samples: Vec<String> =
            self.samples.iter().map(|s| format!("<pre>{}</pre>", escaped(s))).collect();
        let samples = samples.concat();
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>OLMo quickstart</title>\
             <style>{STYLE}</style><h1>OLMo quickstart</h1><p>{}</p>\
             <h2>Cross-entropy, nats per token</h2>{loss}<h2>Learning rate</h2>{rate}\
             <h2>Samples</h2>{samples}<h2>Configuration</h2><pre>{}</pre></html>\n",
            escaped(&self.summary),
            escaped(self.config),
        )
    }
}

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BELOW: f64 = 24.0;

/// A curve over steps, with its range at the axes.
fn chart(
    metrics: &[StepMetrics],
    value: impl Fn(&StepMetrics) -> f64,
    label: impl Fn(f64) -> String,
) -> String {
    let points: Vec<(f64, f64)> =
        metrics.iter().map(|m| (m.step as f64, value(m))).filter(|(_, y)| y.is_finite()).collect();
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)))
    };
    let (first, last) = range(&mut points.iter().map(|p| p.0));
    let (low, high) = range(&mut points.iter().map(|p| p.1));
    if points.is_empty() {
        return "<p>no steps</p>".to_owned();
    }
    // A flat curve or a single step lies in the middle.
    let share = |x: f64, a: f64, b: f64| if b > a { (x - a) / (b - a) } else { 0.5 };
    let x = |step: f64| LEFT + (WIDTH - LEFT - 8.0) * share(step, first, last);
    let y = |value: f64| 8.0 + (HEIGHT - BELOW - 8.0) * (1.0 - share(value, low, high));
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for tick in [low, low.midpoint(high), high] {
        let (at, text) = (y(tick), label(tick));
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{WIDTH}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (tick, anchor) in [(first, "start"), (last, "end")] {
        let (at, below) = (x(tick), HEIGHT - 4.0);
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"{anchor}\">step {tick:.0}</text>"
        );
    }
    let line: Vec<String> =
        points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
    let _ = write!(svg, "<polyline points=\"{}\"/></svg>", line.join(" "));
    svg
}

#[cfg(test)]
mod tests {
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
            learning_rate: 1e-3,
            epoch: 0,
            total_tokens: 1,
            tokens_per_second: 1.0,
        }
    }

    fn points(svg: &str) -> Vec<(f64, f64)> {
        let list = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let number = |text: &str| text.parse::<f64>().unwrap();
        list.split(' ')
            .map(|p| p.split_once(',').unwrap())
            .map(|(x, y)| (number(x), number(y)))
            .collect()
    }

    #[test]
    fn curves_stay_in_their_box_and_pass_over_what_is_no_number() {
        let run = [metrics(1, 7.0), metrics(2, f64::NAN), metrics(3, 2.0)];
        let found = points(&chart(&run, |m| m.cross_entropy, |y| y.to_string()));
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|(x, y)| (0.0..=WIDTH).contains(x) && (0.0..=HEIGHT).contains(y)));
        assert!(found[0].1 < found[1].1, "a higher loss is higher up");
        assert_eq!(points(&chart(&run[..1], |m| m.cross_entropy, |y| y.to_string())).len(), 1);
        assert_eq!(chart(&[], |m| m.cross_entropy, |y| y.to_string()), "<p>no steps</p>");
    }

    #[test]
    fn what_the_model_says_is_no_markup() {
        let samples = ["<script>alert(\"x\")</script> & Vec<T>".to_owned()];
        let page =
            Page { summary: "s".to_owned(), metrics: &[], samples: &samples, config: "a: 1" };
        let html = page.html();
        assert!(
            !html.contains("<script>")
                && html.contains("&lt;script&gt;")
                && html.contains("&amp; Vec")
        );
    }
}
