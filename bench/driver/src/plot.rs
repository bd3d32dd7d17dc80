//! Plots as SVG: bars side by side, and lines over a number.
//!
//! Written as vectors without a font library: text is placed by estimate, which is good enough for labels.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;
use std::path::Path;

/// Colours of series, told apart without red and green side by side.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(120, 120, 120),
];
const WIDTH: u32 = 900;

/// Several figures for one thing: the bars of one place on the axis.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// What the bars have in common.
    pub label: String,
    /// A value for each series; absent where there is none.
    pub values: Vec<Option<f64>>,
}

/// Writes horizontal bars, a cluster for each thing and a bar in it for each series, on a logarithmic axis where the values
/// differ by more than 30 times. `mark` draws a line across all (for ratios: 1).
///
/// # Errors
/// When nothing can be plotted or the file cannot be written.
pub fn bars(
    path: &Path,
    title: &str,
    unit: &str,
    series: &[&str],
    clusters: &[Cluster],
    mark: Option<f64>,
) -> Result<()> {
    let values: Vec<f64> = clusters.iter().flat_map(|c| &c.values).flatten().copied().chain(mark).collect();
    let (axis, logarithmic) = axis_of(&values)?;
    let thick = 14 * series.len() + 12;
    let height = u32::try_from(clusters.len() * thick + 110)?;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw_bars(&root, title, unit, series, clusters, mark, axis, logarithmic).map_err(|e| anyhow!("{e}"))?;
    root.present().map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawResult = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// From the smallest to the largest value, and whether the axis should be logarithmic.
fn axis_of(values: &[f64]) -> Result<(Range<f64>, bool)> {
    let positive = || values.iter().copied().filter(|value| value.is_finite() && *value > 0.0);
    let most = positive().fold(0.0, f64::max);
    let least = positive().fold(most, f64::min);
    if most <= 0.0 {
        return Err(anyhow!("there is nothing to plot"));
    }
    let logarithmic = most / least > 30.0;
    Ok((if logarithmic { least / 2.0..most * 2.0 } else { 0.0..most * 1.15 }, logarithmic))
}

#[allow(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
fn draw_bars(
    root: &Area<'_>,
    title: &str,
    unit: &str,
    series: &[&str],
    clusters: &[Cluster],
    mark: Option<f64>,
    axis: Range<f64>,
    logarithmic: bool,
) -> DrawResult {
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 18))?;
    let (left, top, bottom) = (330, 28, 40);
    let (width, height) = root.dim_in_pixel();
    let (width, height) = (width.cast_signed() - left - 70, height.cast_signed() - top - bottom);
    let place = |value: f64| {
        let part = if logarithmic {
            (value / axis.start).ln() / (axis.end / axis.start).ln()
        } else {
            value / axis.end
        };
        #[allow(clippy::cast_possible_truncation, reason = "pixels")]
        let pixels = (part.clamp(0.0, 1.0) * f64::from(width)) as i32;
        left + pixels
    };
    let text = |size: i32, horizontal: HPos| {
        ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(horizontal, VPos::Center))
    };
    let per_cluster = height / i32::try_from(clusters.len().max(1)).unwrap_or(1);
    for (number, name) in series.iter().enumerate() {
        let x = left + i32::try_from(number).unwrap_or(0) * 170;
        let colour = COLOURS[number % COLOURS.len()];
        root.draw(&Rectangle::new([(x, 8), (x + 10, 18)], colour.filled()))?;
        root.draw(&Text::new((*name).to_string(), (x + 14, 13), text(12, HPos::Left)))?;
    }
    for (number, cluster) in clusters.iter().enumerate() {
        let y = top + i32::try_from(number).unwrap_or(0) * per_cluster;
        root.draw(&Text::new(cluster.label.clone(), (left - 8, y + per_cluster / 2), text(12, HPos::Right)))?;
        for (bar, value) in cluster.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let from = y + 5 + i32::try_from(bar).unwrap_or(0) * 14;
            let to = place(*value);
            let colour = COLOURS[bar % COLOURS.len()];
            root.draw(&Rectangle::new([(left, from), (to, from + 12)], colour.filled()))?;
            root.draw(&Text::new(short(*value), (to + 4, from + 6), text(11, HPos::Left)))?;
        }
    }
    if let Some(mark) = mark {
        let x = place(mark);
        root.draw(&PathElement::new(vec![(x, top), (x, top + height)], BLACK.stroke_width(1)))?;
    }
    let scale = if logarithmic { format!("{unit} (logarithmic)") } else { unit.to_string() };
    root.draw(&Text::new(scale, (left, top + height + 14), text(12, HPos::Left)))
}

/// One line: its name and its points.
pub type Line<'a> = (&'a str, &'a [(f64, f64)]);

/// Writes lines over a number, say the number of threads.
///
/// # Errors
/// When nothing can be plotted or the file cannot be written.
pub fn lines(path: &Path, title: &str, x_name: &str, y_name: &str, lines: &[Line<'_>]) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let (x_most, y_most) = (most(|p| p.0), most(|p| p.1));
    if y_most <= 0.0 {
        return Err(anyhow!("there is nothing to plot"));
    }
    let root = SVGBackend::new(path, (WIDTH, 420)).into_drawing_area();
    let draw = || -> DrawResult {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..x_most * 1.05, 0.0..y_most * 1.15)?;
        chart.configure_mesh().x_desc(x_name).y_desc(y_name).draw()?;
        for (number, (name, points)) in lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2));
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(4))?
                .label(*name)
                .legend(legend);
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()
    };
    draw().map_err(|error| anyhow!("{error}"))?;
    root.present().map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}

/// Three significant digits, however small the value; a dash for what is no number.
#[must_use]
pub fn short(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "–".into();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 12")]
    let decimals = if size > 0.0 { (2.0 - size.log10().floor()).clamp(0.0, 12.0) as usize } else { 0 };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let said = [1234.5, 123.4, 12.34, 1.234, 0.5, 0.000_421_9, 0.0, f64::NAN].map(short);
        assert_eq!(said, ["1234", "123", "12.3", "1.23", "0.500", "0.000422", "0", "–"]);
    }

    #[test]
    fn plots_hold_what_they_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bars.svg");
        let cluster = |label: &str, a, b| Cluster { label: label.into(), values: vec![a, b] };
        let clusters = [cluster("insert", Some(12.5), Some(900.0)), cluster("lookup", None, Some(3.0))];
        bars(&path, "A title", "ns", &["ours", "theirs"], &clusters, Some(1.0)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for part in ["A title", "insert", "lookup", "12.5", "900", "3.00", "theirs", "logarithmic"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        let path = folder.path().join("lines.svg");
        lines(&path, "Scaling", "threads", "operations/s", &[("kv", &[(1.0, 5.0), (2.0, 9.0)])]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("Scaling") && text.contains("<polyline"), "{text}");
        assert!(bars(&path, "empty", "ns", &["ours"], &[], None).is_err());
    }
}
