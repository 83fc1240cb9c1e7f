//! The results as a picture: a panel for each measure, a bar for each contender.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::report::Report;

/// What is drawn: section, measure, heading.
const PANELS: [(&str, &str, &str); 8] = [
    ("pods-gso", "1 TCP Gbit/s", "TCP, one stream, wire gso: Gbit/s"),
    ("pods-mtu", "1 TCP Gbit/s", "TCP, one stream, wire mtu: Gbit/s"),
    ("pods-gso", "UDP 64 B kpps", "UDP 64 B received: thousand packets a second"),
    ("pods-gso", "RTT p50 µs", "round trip, median: µs (less is better)"),
    ("forward-in", "Mpps", "forward in, one core: million packets a second"),
    ("forward-in-xdp", "Mpps", "forward in, container with XDP, one core"),
    ("forward-out", "Mpps", "forward out, one core: million packets a second"),
    ("forward-gateway", "Mpps", "gateway port, one core: million packets a second"),
];
const COLUMNS: usize = 2;
const WIDTH: u32 = 1000;
const HEADING: i32 = 34;
const BAR: i32 = 22;
/// Where bars begin; names are to the left.
const LEFT: i32 = 170;
/// Room for the value behind the longest bar.
const RIGHT: i32 = 60;
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const OTHERS: RGBColor = RGBColor(0xb8, 0xbe, 0xc6);

struct Panel {
    heading: &'static str,
    bars: Vec<(String, f64)>,
}

/// Draws what a folder has into its `bench.svg`; nothing if it has nothing.
pub fn draw(output: &Path) -> Result<()> {
    let mut panels = Vec::new();
    for (section, measure, heading) in PANELS {
        let Some(report) = Report::read(output, section)? else { continue };
        let bars = report
            .rows
            .iter()
            .filter_map(|row| Some((row.contender.clone(), report.median(&row.contender, measure)?)));
        panels.push(Panel { heading, bars: bars.collect() });
    }
    let most = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    if most == 0 {
        return Ok(());
    }
    let height = HEADING + BAR * i32::try_from(most)?;
    let rows = panels.len().div_ceil(COLUMNS);
    let total = u32::try_from(height)? * u32::try_from(rows)?;
    let file = output.join("bench.svg");
    let drawn = {
        let root = SVGBackend::new(&file, (WIDTH, total)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| anyhow!("{e}")).and_then(|()| {
            let areas = root.split_evenly((rows, COLUMNS));
            panels.iter().zip(&areas).try_for_each(|(panel, area)| panel.draw(area))?;
            root.present().map_err(|e| anyhow!("{e}"))
        })
    };
    drawn.map_err(|error| error.context(format!("cannot draw {}", file.display())))
}

impl Panel {
    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
        let (width, _) = area.dim_in_pixel();
        let room = f64::from(i32::try_from(width)? - LEFT - RIGHT);
        let most = self.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let write = |text: &str, at: (i32, i32), size: i32, side: HPos| {
            let style = TextStyle::from(("sans-serif", size)).pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(text.to_owned(), at, style)).map_err(|e| anyhow!("{e}"))
        };
        write(self.heading, (12, HEADING / 2), 15, HPos::Left)?;
        for ((name, value), line) in self.bars.iter().zip(0..) {
            let (top, bottom) = (HEADING + BAR * line + 2, HEADING + BAR * (line + 1) - 2);
            #[expect(clippy::cast_possible_truncation, reason = "a length in pixels")]
            let end = LEFT + (room * value / most) as i32;
            let colour = if name.starts_with("overlay") { OURS } else { OTHERS };
            let bar = Rectangle::new([(LEFT, top), (end, bottom)], colour.filled());
            area.draw(&bar).map_err(|e| anyhow!("{e}"))?;
            let middle = i32::midpoint(top, bottom);
            write(name, (LEFT - 8, middle), 13, HPos::Right)?;
            write(&shown(*value), (end + 6, middle), 13, HPos::Left)?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Row;

    #[test]
    fn a_chart_has_a_bar_for_each_contender() {
        let dir = tempfile::tempdir().expect("a directory");
        draw(dir.path()).expect("nothing is drawn from nothing");
        assert!(!dir.path().join("bench.svg").exists());

        let mut report = Report::new("forward-in", "in", &["Mpps"]);
        for (contender, value) in [("bare XDP redirect", 2.0), ("overlay, tc", 1.5)] {
            let mut row = Row::new(contender.into(), &["Mpps"]);
            row.add(&[value]);
            report.push(row);
        }
        report.finish(dir.path()).expect("it can be written");
        draw(dir.path()).expect("it can be drawn");
        let svg = std::fs::read_to_string(dir.path().join("bench.svg")).expect("it is there");
        assert!(svg.contains("overlay, tc") && svg.contains("bare XDP redirect") && svg.contains("1.50"));
    }
}
