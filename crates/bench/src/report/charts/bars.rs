//! Grouped bars.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{FONT, SIZE, digits, tick};

/// The least width of a bar with the space around it, so that the figures above bars do not touch.
const BAR_PIXELS: u32 = 36;
/// What is beside the bars.
const MARGINS: u32 = 252;

/// Bars that stand together.
pub(super) struct Group<'a> {
    /// What they are about.
    pub(super) label: String,
    pub(super) bars: Vec<Bar<'a>>,
}

/// One bar.
pub(super) struct Bar<'a> {
    /// Its entry in the legend.
    pub(super) series: &'a str,
    pub(super) colour: RGBColor,
    pub(super) value: f64,
    /// Drawn as a whisker if it is more than a point.
    pub(super) spread: (f64, f64),
}

/// Draws groups side by side; `unit` is that of the values.
pub(super) fn bars(title: &str, unit: &str, groups: &[Group<'_>]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let most = u32::try_from(groups.iter().map(|group| group.bars.len()).max().unwrap_or(0))?;
        let bars = most.saturating_mul(u32::try_from(groups.len())?);
        let size = (SIZE.0.max(bars.saturating_mul(BAR_PIXELS).saturating_add(MARGINS)), SIZE.1);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let highest = groups.iter().flat_map(|g| &g.bars).map(|bar| bar.value.max(bar.spread.1));
        let top = highest.fold(0.0, f64::max);
        let top = if top > 0.0 { top * 1.12 } else { 1.0 };
        let width = f64::from(u32::try_from(groups.len())?.max(1));
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 22))
            .margin(12)
            .margin_right(170)
            .x_label_area_size(34)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..width, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_desc(unit)
            .y_label_formatter(&|value| tick(*value))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .light_line_style(TRANSPARENT)
            .draw()?;

        let mut legend: Vec<(&str, RGBColor)> = Vec::new();
        for (index, group) in (0u32..).zip(groups) {
            let step = 0.84 / f64::from(u32::try_from(group.bars.len())?.max(1));
            let mut left = f64::from(index) + 0.08;
            for bar in &group.bars {
                let (start, end, middle) = (left + step * 0.06, left + step * 0.94, left + step / 2.0);
                left += step;
                let shape = Rectangle::new([(start, 0.0), (end, bar.value)], bar.colour.filled());
                chart.plotting_area().draw(&shape)?;
                let (low, high) = bar.spread;
                if high > low {
                    chart
                        .plotting_area()
                        .draw(&PathElement::new([(middle, low), (middle, high)], BLACK.stroke_width(2)))?;
                }
                let above = chart.backend_coord(&(middle, bar.value.max(high)));
                let style = (FONT, 13).into_text_style(&root).pos(Pos::new(HPos::Center, VPos::Bottom));
                root.draw(&Text::new(digits(bar.value), (above.0, above.1 - 3), style))?;
                if !legend.iter().any(|(series, _)| *series == bar.series) {
                    legend.push((bar.series, bar.colour));
                }
            }
            let below = chart.backend_coord(&(f64::from(index) + 0.5, 0.0));
            let style = (FONT, 15).into_text_style(&root).pos(Pos::new(HPos::Center, VPos::Top));
            root.draw(&Text::new(group.label.clone(), (below.0, below.1 + 8), style))?;
        }
        draw_legend(&root, &legend)?;
        root.present()?;
    }
    Ok(svg)
}

/// Names series beside the chart, where nothing is hidden by them.
pub(super) fn draw_legend(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    entries: &[(&str, RGBColor)],
) -> Result<(), Box<dyn Error>> {
    let left = i32::try_from(root.dim_in_pixel().0)? - 160;
    let mut top = 60;
    for (series, colour) in entries {
        root.draw(&Rectangle::new([(left, top), (left + 14, top + 14)], colour.filled()))?;
        let style = (FONT, 15).into_text_style(root).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new((*series).to_owned(), (left + 22, top + 7), style))?;
        top += 24;
    }
    Ok(())
}
