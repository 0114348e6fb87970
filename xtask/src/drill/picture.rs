//! The picture of a drill: one round of each side, one above the other on the same axis. Bars are the
//! acknowledged writes of a tenth of a second by where they ended up, or connections by who answered;
//! numbered lines are the moments, named below.

use svg::{
    Document,
    node::element::{Group, Line, Rectangle, Text},
};

use super::{
    account::{Round, ms},
    closed,
    load::PER_SECOND,
    name::Drill,
    report::{Drilled, Stood},
    timeline::BUCKET,
};

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const BARS: f64 = 110.0;
const HEAD: f64 = 66.0;
const LEGEND_LINE: f64 = 15.0;
const COLUMNS: usize = 3;
const BEFORE: &str = "#4a90d9";
const AFTER: &str = "#3a9d5d";
const LOST: &str = "#d9483b";
const INK: &str = "#222222";
const FAINT: &str = "#999999";

/// What the bars of a drill count.
struct Legend {
    /// What a full bar is, and what is written at its top.
    full: f64,
    label: &'static str,
    /// Of how many rounds the one is that is shown.
    shown: &'static str,
    key: [(&'static str, &'static str); 3],
}

const WRITES: Legend = Legend {
    full: PER_SECOND as f64 * 0.1,
    label: "1000/s",
    shown: "the round with the median gap",
    key: [
        (BEFORE, "acknowledged by the old master, on the surviving one"),
        (AFTER, "acknowledged by the surviving master"),
        (LOST, "acknowledged and lost"),
    ],
};

const CONNECTIONS: Legend = Legend {
    full: closed::CONNECTIONS as f64,
    label: "400",
    shown: "the round with the median number of wrong answers",
    key: [
        (BEFORE, "connections that still wait"),
        (AFTER, "answered by the master"),
        (LOST, "answered by a wrong node"),
    ],
};

impl Legend {
    fn of(drill: Drill) -> &'static Self {
        if matches!(drill, Drill::Start | Drill::NoMajority) { &CONNECTIONS } else { &WRITES }
    }
}

/// Nothing to draw if no round was played.
pub(super) fn draw(drilled: &Drilled) -> Option<Document> {
    let rounds: Vec<(&Stood, &Round)> =
        drilled.sides.iter().filter_map(|stood| Some((stood, stood.typical()?))).collect();
    let last = |(_, round): &(&Stood, &Round)| round.buckets.last().map(|bucket| bucket.ms + ms(BUCKET));
    let until = rounds.iter().filter_map(last).max_by(f64::total_cmp)?;
    let (axis, legend) = (Axis { from: -1000.0, until }, Legend::of(drilled.drill));
    let heights: Vec<f64> = rounds.iter().map(|(_, round)| panel_height(round)).collect();
    let height = HEAD + heights.iter().sum::<f64>();
    let title = format!("{}: {}", drilled.drill.word(), drilled.drill.blow());
    let mut picture = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .set("fill", INK)
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
        .add(text(LEFT, 24.0, &title).set("font-size", 16).set("font-weight", "bold"))
        .add(key(legend));
    let mut top = HEAD;
    for ((stood, round), height) in rounds.iter().zip(heights) {
        picture = picture.add(panel(stood, round, &axis, legend).set("transform", format!("translate(0 {top})")));
        top += height;
    }
    Some(picture)
}

/// Milliseconds from the blow, left to right.
struct Axis {
    from: f64,
    until: f64,
}

impl Axis {
    fn x(&self, ms: f64) -> f64 {
        let part = (ms - self.from) / (self.until - self.from);
        round(LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT))
    }
}

fn legend_lines(round: &Round) -> usize {
    round.timeline.len().div_ceil(COLUMNS)
}

fn panel_height(round: &Round) -> f64 {
    BARS + 96.0 + legend_lines(round) as f64 * LEGEND_LINE
}

fn panel(stood: &Stood, round: &Round, axis: &Axis, legend: &Legend) -> Group {
    let name = format!("{}, {} of {}", stood.side, legend.shown, stood.rounds.len());
    let mut group = Group::new().add(text(LEFT, 12.0, &name).set("font-weight", "bold"));
    let (top, bottom) = (46.0, 46.0 + BARS);
    for bucket in &round.buckets {
        let mut y = bottom;
        for (count, colour) in [(bucket.before, BEFORE), (bucket.after, AFTER), (bucket.lost, LOST)] {
            let height = self::round(f64::from(count) / legend.full * BARS);
            y = self::round(y - height);
            if count > 0 {
                let (x, width) = (axis.x(bucket.ms), axis.x(bucket.ms + ms(BUCKET)) - axis.x(bucket.ms));
                group = group.add(rectangle(x, y, self::round(width), height).set("fill", colour));
            }
        }
    }
    group = group.add(line(LEFT, bottom, WIDTH - RIGHT, bottom).set("stroke", INK));
    group = group.add(text(LEFT - 8.0, top + 6.0, legend.label).set("text-anchor", "end").set("fill", FAINT));
    group = group.add(text(LEFT - 8.0, bottom, "0").set("text-anchor", "end").set("fill", FAINT));
    group = seconds(group, axis, bottom);
    moments(group, round, axis, (top, bottom))
}

/// A tick for every second, with a number where there is room.
fn seconds(mut group: Group, axis: &Axis, bottom: f64) -> Group {
    let step = ((axis.until - axis.from) / 1000.0 / 20.0).ceil().max(1.0);
    let mut second = (axis.from / 1000.0).ceil();
    while second * 1000.0 <= axis.until {
        let x = axis.x(second * 1000.0);
        group = group.add(line(x, bottom, x, bottom + 4.0).set("stroke", INK));
        group = group.add(text(x, bottom + 16.0, &format!("{second:.0} s")).set("text-anchor", "middle"));
        second += step;
    }
    group
}

/// A numbered line for each moment; numbers that would overlap climb. The names are below, column by column.
fn moments(mut group: Group, round: &Round, axis: &Axis, (top, bottom): (f64, f64)) -> Group {
    let rows = legend_lines(round).max(1);
    let column = (WIDTH - LEFT - RIGHT) / COLUMNS as f64;
    let mut ends = [f64::MIN; 3];
    for (index, mark) in round.timeline.iter().enumerate() {
        let (x, number) = (axis.x(mark.ms), format!("{}", index + 1));
        let free = ends.iter().position(|end| x > end + 2.0);
        group = group.add(line(x, top - 2.0, x, bottom).set("stroke", INK).set("stroke-width", 0.5));
        // Where all rows are taken the line stays without a number; the list has it.
        if let Some(row) = free {
            ends[row] = x + 7.0 * number.len() as f64;
            let y = top - 4.0 - row as f64 * 10.0;
            group = group.add(text(x - 3.0, y, &number).set("font-size", 10));
        }
        let (left, below) =
            (LEFT + (index / rows) as f64 * column, bottom + 36.0 + (index % rows) as f64 * LEGEND_LINE);
        let name = format!("{number}. {:.1} ms {}", mark.ms, mark.what);
        group = group.add(text(self::round(left), below, &name).set("font-size", 11));
    }
    group
}

fn key(legend: &Legend) -> Group {
    let mut group = Group::new();
    for (index, (colour, says)) in legend.key.into_iter().enumerate() {
        let x = LEFT + [0.0, 350.0, 610.0][index];
        group = group.add(rectangle(x, 36.0, 10.0, 10.0).set("fill", colour)).add(text(x + 16.0, 45.0, says));
    }
    group
}

fn text(x: f64, y: f64, says: &str) -> Text {
    Text::new(says).set("x", x).set("y", y)
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> Line {
    Line::new().set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2)
}

fn rectangle(x: f64, y: f64, width: f64, height: f64) -> Rectangle {
    Rectangle::new().set("x", x).set("y", y).set("width", width).set("height", height)
}

/// A tenth of a pixel is enough, and keeps the file small.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
