//! One panel: a line for each peer, with a bar or with marks, on one scale.

use plotters::{
    element::{Circle, PathElement, Rectangle, Text},
    style::{
        BLACK, Color as _, IntoFont as _, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{super::peer::Peer, Area, FONT};

type Drawn = Result<(), Box<dyn std::error::Error>>;

pub(super) const WIDTH: u32 = 480;
const TITLE: i32 = 24;
const LINE: i32 = 18;
const FOOT: i32 = 24;
/// Where the lines begin and end; names are left of it, values right.
const LEFT: i32 = 112;
const RIGHT: i32 = 330;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From nothing to the most.
    Linear,
    /// From the power of ten below the least to that above the most.
    Logarithmic,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) peer: Peer,
    pub(super) bar: Option<f64>,
    /// The part of the bar that is drawn darker.
    pub(super) dark: Option<f64>,
    pub(super) range: Option<(f64, f64)>,
    pub(super) marks: Vec<f64>,
    pub(super) label: String,
}

impl Row {
    fn values(&self) -> impl Iterator<Item = f64> {
        let range = self.range.into_iter().flat_map(|(least, most)| [least, most]);
        self.bar.into_iter().chain(range).chain(self.marks.iter().copied())
    }
}

#[derive(Debug)]
pub(super) struct Panel {
    title: String,
    axis: Axis,
    rows: Vec<Row>,
}

/// From a value to a place on the line.
#[derive(Debug, Clone, Copy)]
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        match scale {
            Scale::Linear => Self { scale, from: 0.0, to: most },
            Scale::Logarithmic => {
                let least = values.iter().copied().fold(most, f64::min).log10().floor();
                // One decade at least, or there is nothing to tell apart.
                Self { scale, from: least, to: most.log10().ceil().max(least + 1.0) }
            }
        }
    }

    /// 0 at its beginning, 1 at its end.
    fn part(self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        };
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    fn x(self, value: f64) -> i32 {
        LEFT + (self.part(value) * f64::from(RIGHT - LEFT)).round() as i32
    }

    /// The powers of ten, and 2 and 5 times them where there is room.
    fn ticks(self) -> Vec<f64> {
        if self.scale == Scale::Linear {
            return Vec::new();
        }
        let steps: &[f64] = if self.to - self.from > 2.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = (self.from as i32..=self.to as i32).map(|power| 10f64.powi(power));
        let ticks = powers.flat_map(|power| steps.iter().map(move |step| step * power));
        ticks.filter(|tick| tick.log10() <= self.to + 1e-9).collect()
    }
}

impl Panel {
    pub(super) fn new(title: String, scale: Scale, rows: Vec<Row>) -> Self {
        let axis = Axis::over(scale, rows.iter().flat_map(Row::values));
        Self { title, axis, rows }
    }

    fn bottom(&self) -> i32 {
        TITLE + LINE * i32::try_from(self.rows.len()).unwrap_or(i32::MAX / LINE)
    }

    pub(super) fn height(&self) -> u32 {
        (self.bottom() + FOOT).cast_unsigned()
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Drawn {
        area.draw(&Text::new(self.title.clone(), (16, 4), text(13, HPos::Left)))?;
        for tick in self.axis.ticks() {
            let x = self.axis.x(tick);
            area.draw(&PathElement::new([(x, TITLE), (x, self.bottom())], BLACK.mix(0.2)))?;
            area.draw(&Text::new(tick_label(tick), (x, self.bottom() + 8), text(10, HPos::Center)))?;
        }
        (0..).zip(&self.rows).try_for_each(|(index, row)| self.draw_row(area, TITLE + LINE * index, row))
    }

    fn draw_row(&self, area: &Area<'_>, top: i32, row: &Row) -> Drawn {
        let (middle, colour) = (top + LINE / 2, colour(row.peer));
        area.draw(&Text::new(row.peer.to_string(), (LEFT - 8, middle), text(12, HPos::Right)))?;
        let bar = |value| [(LEFT, top + 3), (self.axis.x(value), top + LINE - 3)];
        if let Some(value) = row.bar {
            area.draw(&Rectangle::new(bar(value), colour.filled()))?;
        }
        if let Some(value) = row.dark {
            area.draw(&Rectangle::new(bar(value), BLACK.mix(0.35).filled()))?;
        }
        if let Some((least, most)) = row.range {
            let ends = [(self.axis.x(least), middle), (self.axis.x(most), middle)];
            area.draw(&PathElement::new(ends, BLACK.stroke_width(1)))?;
        }
        for (index, &value) in row.marks.iter().enumerate() {
            let x = self.axis.x(value);
            match index {
                0 => area.draw(&Circle::new((x, middle), 4, colour.filled()))?,
                1 => area.draw(&Circle::new((x, middle), 4, colour.stroke_width(2)))?,
                _ => area.draw(&PathElement::new([(x, top + 3), (x, top + LINE - 3)], colour.stroke_width(3)))?,
            }
        }
        area.draw(&Text::new(row.label.clone(), (RIGHT + 8, middle), text(11, HPos::Left)))?;
        Ok(())
    }
}

/// 0.1 and not 0.1 plus what a binary fraction adds to it.
fn tick_label(tick: f64) -> String {
    let places = (-tick.log10().floor()).max(0.0) as usize;
    format!("{tick:.places$}")
}

fn text(size: i32, side: HPos) -> TextStyle<'static> {
    let above = if size == 13 { VPos::Top } else { VPos::Center };
    TextStyle::from((FONT, size).into_font()).color(&BLACK).pos(Pos::new(side, above))
}

/// Ours are blue.
fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Direct => RGBColor(130, 130, 130),
        Peer::Nftables => RGBColor(176, 122, 161),
        Peer::Haproxy => RGBColor(242, 142, 43),
        Peer::HaproxySplice => RGBColor(255, 190, 125),
        Peer::Nginx => RGBColor(89, 161, 79),
        Peer::Twemproxy => RGBColor(140, 209, 125),
        Peer::Copy => RGBColor(160, 203, 232),
        Peer::Sockmap => RGBColor(78, 121, 167),
        Peer::Tc => RGBColor(31, 78, 158),
        Peer::Xdp => RGBColor(11, 42, 102),
        Peer::Steered => RGBColor(72, 52, 212),
        Peer::Bypassed => RGBColor(136, 84, 208),
        Peer::XdpRoute => RGBColor(190, 190, 190),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_all_its_values() {
        let axis = Axis::over(Scale::Logarithmic, [0.04, 3.0, f64::NAN, 0.0].into_iter());
        assert_eq!((axis.x(0.01), axis.x(10.0)), (LEFT, RIGHT), "from the power of ten below to that above");
        assert_eq!(axis.x(0.0), LEFT);
        assert_eq!(axis.ticks().len(), 4);
        let decade = Axis::over(Scale::Logarithmic, [2.0, 9.0].into_iter());
        assert_eq!(decade.ticks(), [1.0, 2.0, 5.0, 10.0]);
        let axis = Axis::over(Scale::Linear, [50.0, 100.0].into_iter());
        assert_eq!((axis.x(0.0), axis.x(50.0), axis.x(100.0)), (LEFT, (LEFT + RIGHT) / 2, RIGHT));
        assert_eq!(Axis::over(Scale::Linear, std::iter::empty()).x(0.0), LEFT, "nothing is no reason to divide by it");
    }
}
