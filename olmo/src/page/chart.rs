//! Curves as SVG, which HTML holds inline and a repository shows as a file.

use std::fmt::Write as _;

use super::escaped;

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series<'a> {
    /// What it is of; shown where there are several.
    pub(crate) label: &'a str,
    /// Step and value; values that are no number are passed over.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BELOW: f64 = 24.0;
/// Height of a line of the legend.
const LINE: f64 = 16.0;
/// Columns that a long curve is thinned to: its lowest and highest point in each.
const COLUMNS: usize = 500;
/// Colours of curves, told apart by the colour-blind too (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a"];

/// Curves over the same axes, with their ranges; `number` writes a value.
pub(crate) fn chart(series: &[Series<'_>], number: impl Fn(f64) -> String) -> String {
    let series: Vec<_> = series
        .iter()
        .map(|s| (s.label, thinned(s.points.iter().copied().filter(|p| p.1.is_finite()).collect())))
        .collect();
    let points = || series.iter().flat_map(|(_, points)| points.iter());
    if points().next().is_none() {
        return "<p>no steps</p>".to_owned();
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)))
    };
    let (first, last) = range(&mut points().map(|p| p.0));
    let (low, high) = range(&mut points().map(|p| p.1));
    // A flat curve or a single step lies in the middle.
    let share = |x: f64, a: f64, b: f64| if b > a { (x - a) / (b - a) } else { 0.5 };
    let x = |step: f64| LEFT + (WIDTH - LEFT - 8.0) * share(step, first, last);
    let y = |value: f64| 8.0 + (HEIGHT - BELOW - 8.0) * (1.0 - share(value, low, high));
    let n_lines = if series.len() > 1 { series.len() } else { 0 };
    let height = HEIGHT + LINE * n_lines as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui,sans-serif\" font-size=\"11\" fill=\"currentColor\">"
    );
    for tick in [low, low.midpoint(high), high] {
        let (at, text) = (y(tick), escaped(&number(tick)));
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{WIDTH}\" y2=\"{at:.1}\" \
             stroke=\"currentColor\" opacity=\".25\"/>\
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
    for (i, (label, points)) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let line: Vec<String> =
            points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            line.join(" ")
        );
        if n_lines > 0 {
            let at = HEIGHT + LINE * i as f64;
            let _ = write!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"12\" height=\"3\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                at + 4.0,
                LEFT + 18.0,
                at + 9.0,
                escaped(label)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// A long curve as its lowest and highest points in each column, so that no spike is lost.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= 2 * COLUMNS {
        return points;
    }
    let columns = points.chunks(points.len().div_ceil(COLUMNS));
    columns
        .flat_map(|column| {
            let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let low = column.iter().min_by(by_value);
            let high = column.iter().max_by(by_value);
            let mut both: Vec<_> = low.into_iter().chain(high).copied().collect();
            both.sort_by(|a, b| a.0.total_cmp(&b.0));
            both.dedup();
            both
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polylines(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let number = |text: &str| text.parse::<f64>().unwrap();
        svg.split("<polyline points=\"")
            .skip(1)
            .map(|rest| {
                let list = rest.split('"').next().unwrap();
                let pairs = list.split(' ').filter(|p| !p.is_empty());
                pairs
                    .map(|p| p.split_once(',').unwrap())
                    .map(|(x, y)| (number(x), number(y)))
                    .collect()
            })
            .collect()
    }

    fn series(points: &[(f64, f64)]) -> Series<'static> {
        Series { label: "a", points: points.to_vec() }
    }

    #[test]
    fn curves_stay_in_their_box_and_pass_over_what_is_no_number() {
        let run = [(1.0, 7.0), (2.0, f64::NAN), (3.0, 2.0)];
        let found = &polylines(&chart(&[series(&run)], |y| y.to_string()))[0];
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|(x, y)| (0.0..=WIDTH).contains(x) && (0.0..=HEIGHT).contains(y)));
        assert!(found[0].1 < found[1].1, "a higher loss is higher up");
        assert_eq!(polylines(&chart(&[series(&run[..1])], |y| y.to_string()))[0].len(), 1);
        assert_eq!(chart(&[series(&[])], |y| y.to_string()), "<p>no steps</p>");
    }

    #[test]
    fn several_curves_share_axes_and_have_a_legend() {
        let other = Series { label: "<b>", points: vec![(5.0, 0.0), (9.0, 1.0)] };
        let svg = chart(&[series(&[(1.0, 1.0), (5.0, 3.0)]), other], |y| format!("{y:.1}"));
        let found = polylines(&svg);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0][1].0.to_bits(), found[1][0].0.to_bits(), "step 5 is at one place");
        assert!(svg.contains("&lt;b&gt;") && svg.contains("step 9"), "{svg}");
    }

    #[test]
    fn a_long_curve_keeps_its_spikes() {
        let points: Vec<_> =
            (0..100_000).map(|i| (f64::from(i), if i == 54_321 { 9.0 } else { 1.0 })).collect();
        let thin = thinned(points);
        assert!(thin.len() <= 2 * COLUMNS && thin.contains(&(54_321.0, 9.0)), "{}", thin.len());
    }
}
