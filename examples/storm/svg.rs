//! The course of the runs as a picture: for each variant a panel, with the load at the server and the calls that
//! succeed, second by second.

use std::fmt::Write;
use std::ops::Range;

use super::storm::{CAPACITY_PER_SECOND, Report, Second, Weather};

const WIDTH: f64 = 760.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 34.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 58.0;

const LOAD: &str = "#c2410c";
const GOOD: &str = "#15803d";

/// The highest of the scale: more would leave nothing to see below.
const MOST: f64 = 300.0;

fn x(weather: &Weather, second: u64) -> f64 {
    LEFT + second as f64 / weather.length as f64 * WIDTH
}

fn y(top: f64, value: f64) -> f64 {
    top + PANEL * (1.0 - value.min(MOST) / MOST)
}

pub(crate) fn draw(weather: &Weather, reports: &[Report]) -> String {
    let height = TOP + reports.len() as f64 * (PANEL + GAP) + 10.0;
    let width = LEFT + WIDTH + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(
        &mut svg,
        LEFT,
        22.0,
        LOAD,
        "requests at the server, each second",
    );
    text(
        &mut svg,
        LEFT + 230.0,
        22.0,
        GOOD,
        "calls that succeed, each second",
    );
    text(
        &mut svg,
        LEFT + 440.0,
        22.0,
        "#64748b",
        "- - what the server can do",
    );
    for (i, report) in reports.iter().enumerate() {
        panel(&mut svg, weather, report, TOP + i as f64 * (PANEL + GAP));
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, weather: &Weather, report: &Report, top: f64) {
    shade(svg, weather, &weather.outage, top, "#fee2e2", "outage");
    shade(svg, weather, &weather.rush, top, "#fef3c7", "rush");
    text(svg, LEFT, top - 6.0, "#0f172a", report.variant.name());
    for value in [0.0, 100.0, 200.0, 300.0] {
        let y = y(top, value);
        let dashed = if value == CAPACITY_PER_SECOND {
            "4 4"
        } else {
            "1 5"
        };
        line(
            svg,
            y,
            &format!("stroke=\"#94a3b8\" stroke-dasharray=\"{dashed}\""),
        );
        text(svg, LEFT - 34.0, y + 4.0, "#64748b", &format!("{value}"));
    }
    curve(svg, weather, report, top, LOAD, |it| it.load);
    curve(svg, weather, report, top, GOOD, |it| it.good);
}

fn line(svg: &mut String, y: f64, style: &str) {
    let right = LEFT + WIDTH;
    *svg += &format!("<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" {style}/>\n");
}

fn text(svg: &mut String, x: f64, y: f64, colour: &str, words: &str) {
    *svg += &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{words}</text>\n");
}

fn shade(
    svg: &mut String,
    weather: &Weather,
    range: &Range<u64>,
    top: f64,
    fill: &str,
    words: &str,
) {
    let (left, right) = (x(weather, range.start), x(weather, range.end));
    let width = right - left;
    *svg += &format!(
        "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{PANEL}\" fill=\"{fill}\"/>\n"
    );
    text(svg, left + 4.0, top + 13.0, "#64748b", words);
}

fn curve(
    svg: &mut String,
    weather: &Weather,
    report: &Report,
    top: f64,
    colour: &str,
    value: impl Fn(&Second) -> u32,
) {
    let mut points = String::new();
    for (second, it) in report.seconds.iter().enumerate() {
        let (x, y) = (x(weather, second as u64), y(top, f64::from(value(it))));
        // Writing to a string does not fail.
        let _ = write!(points, "{x:.1},{y:.1} ");
    }
    let points = points.trim_end();
    *svg += &format!(
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n"
    );
}
