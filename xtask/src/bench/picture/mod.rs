//! The pictures of a run: what each peer carried, how long it took, and what it cost. A panel a workload,
//! a line a peer, drawn by plotters.

mod panel;

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    backend::SVGBackend,
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::Text,
    style::{BLACK, Color as _, IntoFont as _, WHITE},
};

use self::panel::{Panel, Row, Scale};
use super::{report::Report, workload::Workload};
use crate::sample::Figure;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// File names, and what they show.
pub(super) const NAMES: [(&str, &str); 3] = [
    ("throughput.svg", "Requests and connections per second of every peer"),
    ("latency.svg", "Latency percentiles of every peer"),
    ("cpu.svg", "CPU time per million requests of every peer"),
];

const COLUMNS: usize = 3;
const HEAD: u32 = 60;
const FONT: &str = "sans-serif";

/// Draws all of them into `folder`.
pub(super) fn draw_all(folder: &Path, report: &Report) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let keys = [
        "Medians of the rounds; the thin line goes from the least to the most.",
        "Milliseconds on a logarithmic axis: p50 (filled), p99 (ring) and, of messages, p99.9 (bar). Medians of the rounds.",
        "CPU seconds of the whole machine for a million; the dark part is the proxy's own processes. Medians of the rounds.",
    ];
    let panels = [throughput, latency, cpu];
    for (((file, title), key), panel) in NAMES.into_iter().zip(keys).zip(panels) {
        let panels: Vec<Panel> = report.workloads.iter().filter_map(|workload| panel(report, workload)).collect();
        draw(&folder.join(file), title, key, &panels).map_err(|error| anyhow!("{file}: {error}"))?;
    }
    Ok(())
}

fn draw(file: &Path, title: &str, key: &str, panels: &[Panel]) -> Result<(), Box<dyn std::error::Error>> {
    let rows: Vec<&[Panel]> = panels.chunks(COLUMNS).collect();
    let heights: Vec<u32> = rows.iter().map(|row| row.iter().map(Panel::height).max().unwrap_or_default()).collect();
    let size = (panel::WIDTH * COLUMNS as u32, HEAD + heights.iter().sum::<u32>());
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (16, 12), (FONT, 20).into_font().color(&BLACK)))?;
    root.draw(&Text::new(key.to_owned(), (16, 38), (FONT, 12).into_font().color(&BLACK.mix(0.7))))?;
    let mut top = HEAD;
    for (row, height) in rows.into_iter().zip(heights) {
        for (column, panel) in (0..).zip(row) {
            let left = column * panel::WIDTH;
            panel.draw(&root.clone().shrink((left, top), (panel::WIDTH, height)))?;
        }
        top += height;
    }
    root.present()?;
    Ok(())
}

/// A line for each peer that was measured with it; no panel if none was.
fn panel_of(
    report: &Report,
    workload: &Workload,
    scale: Scale,
    row: impl Fn(super::Peer) -> Option<Row>,
) -> Option<Panel> {
    let rows: Vec<Row> = report.peers.iter().filter_map(|&peer| row(peer)).collect();
    (!rows.is_empty()).then(|| Panel::new(format!("{}: {}", workload.name, workload.title), scale, rows))
}

fn throughput(report: &Report, workload: &Workload) -> Option<Panel> {
    // Messages come at a given rate.
    let measured = (!workload.is_messages()).then_some(&report.measured)?;
    panel_of(report, workload, Scale::Linear, |peer| {
        let series = measured.series(workload.name, peer, Figure::Rate);
        let (least, median, most) = (series.least()?, series.median()?, series.most()?);
        Some(Row {
            peer,
            bar: Some(median),
            dark: None,
            range: Some((least, most)),
            marks: Vec::new(),
            label: rounded(median),
        })
    })
}

fn latency(report: &Report, workload: &Workload) -> Option<Panel> {
    panel_of(report, workload, Scale::Logarithmic, |peer| {
        let median = |figure| report.measured.median(workload.name, peer, figure);
        let marks: Vec<f64> = [Figure::P50, Figure::P99, Figure::P999].into_iter().filter_map(median).collect();
        let label = marks.iter().map(|&ms| format!("{ms:.*}", places(ms))).collect::<Vec<_>>().join(" / ");
        (!marks.is_empty()).then_some(Row { peer, bar: None, dark: None, range: None, marks, label })
    })
}

fn cpu(report: &Report, workload: &Workload) -> Option<Panel> {
    panel_of(report, workload, Scale::Linear, |peer| {
        let series = report.measured.series(workload.name, peer, Figure::Machine);
        let (least, median, most) = (series.least()?, series.median()?, series.most()?);
        let dark = report.measured.median(workload.name, peer, Figure::Proxy);
        let label = format!("{median:.1} s");
        Some(Row { peer, bar: Some(median), dark, range: Some((least, most)), marks: Vec::new(), label })
    })
}

/// Three digits are enough, and more are luck.
fn places(ms: f64) -> usize {
    match ms {
        ..1.0 => 3,
        1.0..10.0 => 2,
        _ => 1,
    }
}

/// In thousands where there are some.
fn rounded(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.1} k", value / 1000.0) } else { format!("{value:.0}") }
}
