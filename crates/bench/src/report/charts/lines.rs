//! Lines over a read bandwidth, both axes logarithmic.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::bars::draw_legend;
use super::{FONT, SIZE, tick};

/// Labels on the axis closer than that would touch.
const LABEL_PIXELS: i32 = 34;

/// One line.
pub(super) struct Line<'a> {
    /// Its entry in the legend.
    pub(super) series: &'a str,
    pub(super) colour: RGBColor,
    /// MiB a second, and seconds.
    pub(super) points: Vec<(f64, f64)>,
    /// Seconds without a limit.
    pub(super) unlimited: Option<f64>,
}

/// Draws lines over the bandwidths `rates`, and what is reached without a limit at the right.
pub(super) fn lines(title: &str, rates: &[u32], lines: &[Line<'_>]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (first, last) = (rates.first().copied().unwrap_or(1), rates.last().copied().unwrap_or(1));
        let (first, last) = (f64::from(first), f64::from(last));
        // One step further than the last.
        let unlimited = last * 2.0;
        let times = || {
            lines.iter().flat_map(|l| l.points.iter().map(|p| p.1).chain(l.unlimited)).filter(|t| *t > 0.0)
        };
        let (low, high) = (times().fold(f64::INFINITY, f64::min), times().fold(0.0, f64::max));
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 1.0) };
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 22))
            .margin(12)
            .margin_right(170)
            .x_label_area_size(52)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (first * 0.85..unlimited * 1.15).log_scale(),
                (low * 0.8..high * 1.25).log_scale(),
            )?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .x_label_formatter(&|_| String::new())
            .set_tick_mark_size(LabelAreaPosition::Bottom, 0)
            .x_desc("read bandwidth, MiB/s")
            .y_desc("seconds")
            .y_label_formatter(&|value| tick(*value))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .draw()?;

        let mut taken = i32::MIN;
        let labels = rates.iter().map(|rate| (f64::from(*rate), rate.to_string()));
        for (at, label) in labels.chain([(unlimited, "no limit".to_owned())]) {
            let (x, y) = chart.backend_coord(&(at, low * 0.8));
            if x >= taken {
                root.draw(&PathElement::new([(x, y), (x, y + 4)], BLACK))?;
                let style = (FONT, 14).into_text_style(&root).pos(Pos::new(HPos::Center, VPos::Top));
                root.draw(&Text::new(label, (x, y + 8), style))?;
                taken = x.saturating_add(LABEL_PIXELS);
            }
        }
        for line in lines {
            let points = line.points.iter().copied().filter(|point| point.1 > 0.0).collect::<Vec<_>>();
            let end = line.unlimited.filter(|seconds| *seconds > 0.0).map(|seconds| (unlimited, seconds));
            let style = line.colour.stroke_width(2);
            chart.draw_series(LineSeries::new(points.clone(), style))?;
            if let (Some(from), Some(to)) = (points.last(), end) {
                // Thin, since nothing was measured in between.
                chart.draw_series(LineSeries::new([*from, to], line.colour.stroke_width(1)))?;
            }
            let dots = points.into_iter().chain(end);
            chart.draw_series(dots.map(|point| Circle::new(point, 4, line.colour.filled())))?;
        }
        let legend: Vec<_> = lines.iter().map(|line| (line.series, line.colour)).collect();
        draw_legend(&root, &legend)?;
        root.present()?;
    }
    Ok(svg)
}
