//! The page's charts.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::number;
use crate::results;
use crate::servers::TABLECAST;

struct Chart {
    file: &'static str,
    title: &'static str,
    part: &'static str,
    /// With what a bar is called beside its contestant.
    quantities: &'static [(&'static str, &'static str)],
}

const CHARTS: [Chart; 6] = [
    Chart {
        file: "paced",
        title: "CPU of the server for each delivery, µs: 100 messages/s to 1,000 subscribers",
        part: "paced",
        quantities: &[("server_us", "")],
    },
    Chart {
        file: "batched-cpu",
        title: "CPU of the server for each delivery, µs: as fast as 1,000 subscribers read",
        part: "batched",
        quantities: &[("server_us", "")],
    },
    Chart {
        file: "batched",
        title: "Deliveries a second: as fast as 1,000 subscribers read",
        part: "batched",
        quantities: &[("deliveries_per_s", "")],
    },
    Chart {
        file: "idle",
        title: "Memory for each of 9,000 connections, KiB",
        part: "idle",
        quantities: &[("rss_kib", ", idle"), ("rss_after_burst_kib", ", 10 s after a burst")],
    },
    Chart {
        file: "storm",
        title: "9,000 clients at once: until half of them are confirmed, and all, ms",
        part: "storm",
        quantities: &[("confirm_p50_ms", ", half"), ("confirm_max_ms", ", all")],
    },
    Chart {
        file: "payload",
        title: "CPU of the server for each delivery by payload, µs",
        part: "payload",
        quantities: &[("server_us", "")],
    },
];

const WIDTH: u32 = 860;
const BAR: u32 = 28;
const LABELS: u32 = 210;
/// The caption and the axis.
const AROUND: u32 = 90;
/// What is left free beyond the longest bar, for its number.
const NUMBERS: f64 = 0.12;

const OURS: RGBColor = RGBColor(0x2f, 0x6f, 0xdf);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa4, 0xb2);

/// One bar.
struct Bar {
    label: String,
    value: f64,
    color: RGBColor,
}

pub fn draw(directory: &Path) {
    fs::create_dir_all(directory).expect("docs can be written");
    for chart in &CHARTS {
        let bars = chart.bars();
        if !bars.is_empty() {
            let file = directory.join(chart.file).with_extension("svg");
            chart.draw(&bars, &file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

impl Chart {
    fn bars(&self) -> Vec<Bar> {
        let figures = results::read(self.part).map_or_else(Vec::new, |results| results.figures);
        let bar = |figure: &results::Figure| {
            let (_, suffix) = self.quantities.iter().find(|(quantity, _)| *quantity == figure.quantity)?;
            Some(Bar {
                label: format!("{}{suffix}", figure.contestant()),
                value: figure.median,
                color: if figure.server == TABLECAST.name { OURS } else { OTHERS },
            })
        };
        figures.iter().filter_map(bar).collect()
    }

    fn draw(&self, bars: &[Bar], file: &Path) -> Result<(), Box<dyn Error>> {
        let root = SVGBackend::new(file, (WIDTH, AROUND + BAR * bars.len() as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let longest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        // From the top down.
        let bars: Vec<&Bar> = bars.iter().rev().collect();
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 17))
            .margin(10)
            .x_label_area_size(28)
            .y_label_area_size(LABELS)
            .build_cartesian_2d(0.0..longest * (1.0 + NUMBERS), (0..bars.len() - 1).into_segmented())?;
        let label = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(place) => bars[*place].label.clone(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style(("sans-serif", 14))
            .x_label_formatter(&|value| number(*value))
            .y_labels(bars.len())
            .y_label_formatter(&label)
            .draw()?;
        let color = |place: &SegmentValue<usize>, _: &f64| match place {
            SegmentValue::Exact(place) | SegmentValue::CenterOf(place) => bars[*place].color.filled(),
            SegmentValue::Last => TRANSPARENT.filled(),
        };
        let values = bars.iter().enumerate().map(|(place, bar)| (place, bar.value));
        chart.draw_series(Histogram::horizontal(&chart).style_func(color).margin(4).data(values.clone()))?;
        let style = ("sans-serif", 14).into_text_style(&root).pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series(values.map(|(place, value)| {
            EmptyElement::at((value, SegmentValue::CenterOf(place)))
                + Text::new(number(value), (6, 0), style.clone())
        }))?;
        root.present()?;
        Ok(())
    }
}
