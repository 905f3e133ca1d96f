//! Charts as SVG, readable on light and dark backgrounds.

use std::fmt::Write;

const STYLE: &str = "<style>
    svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
    .paper { fill: #ffffff; } .ink { fill: #1f2328; } .faint { fill: #59636e; } .grid { stroke: #d1d9e0; }
    .whisker { stroke: #1f2328; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
        .paper { fill: #0d1117; } .ink { fill: #f0f6fc; } .faint { fill: #9198a1; } .grid { stroke: #3d444d; }
        .whisker { stroke: #f0f6fc; }
    }
    .title { font-weight: 600; font-size: 15px; }
    .ours { font-weight: 600; }
</style>";

const COLOURS: [&str; 12] = [
    "#8b949e", "#64748b", "#b45309", "#0ea5e9", "#2f81f7", "#14b8a6", "#84a317", "#f97316", "#d29922",
    "#e5484d", "#a855f7", "#ec4899",
];

pub struct Series {
    pub name: String,
    /// Of ours, whose lines are thick.
    pub is_ours: bool,
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

/// One set of axes, both logarithmic.
pub struct Panel {
    pub title: String,
    pub x: String,
    pub series: Vec<Series>,
}

pub struct Bar {
    pub name: String,
    pub is_ours: bool,
    pub colour: usize,
    pub value: f64,
    /// The least and the greatest of the rounds.
    pub spread: (f64, f64),
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number with three digits that matter.
pub fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let decimals = if value >= 100.0 || value.fract() < 1e-9 { 0 } else { 1 };
    format!("{value:.decimals$}{unit}")
}

fn text(svg: &mut String, class: &str, anchor: &str, x: f64, y: f64, text: &str) {
    let text = escape(text);
    writeln!(svg, r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#)
        .unwrap();
}

fn open(width: f64, height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">
<title>{title}</title>
{STYLE}
<rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>
"
    )
}

/// Horizontal bars from zero, in groups side by side.
pub fn bars(title: &str, groups: &[(String, Vec<Bar>)]) -> String {
    let (label, bar, row) = (150.0, 270.0, 24.0);
    let panel = label + bar + 70.0;
    let rows = groups.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0) as f64;
    let (width, height) = (panel * groups.len() as f64 + 20.0, 76.0 + rows * row);
    let mut svg = open(width, height, title);
    text(&mut svg, "ink title", "start", 16.0, 26.0, title);
    for (index, (name, bars)) in groups.iter().enumerate() {
        let left = index as f64 * panel + label + 10.0;
        text(&mut svg, "faint", "start", left, 52.0, name);
        let most = bars.iter().map(|bar| bar.value.max(bar.spread.1)).fold(1.0, f64::max);
        for (index, Bar { name, is_ours, colour, value, spread }) in bars.iter().enumerate() {
            let y = 62.0 + index as f64 * row;
            let weight = if *is_ours { "ink ours" } else { "ink" };
            text(&mut svg, weight, "end", left - 8.0, y + 15.0, name);
            let long = |value: f64| value / most * bar;
            let (colour, opacity) = (COLOURS[*colour], if *is_ours { 1.0 } else { 0.7 });
            let (length, low, high) = (long(*value).max(1.0), left + long(spread.0), left + long(spread.1));
            writeln!(
                svg,
                r#"<rect x="{left:.1}" y="{y:.1}" width="{length:.1}" height="18" rx="2" fill="{colour}" fill-opacity="{opacity}"/>
<path class="whisker" d="M{low:.1} {middle:.1}H{high:.1}"/>"#,
                middle = y + 9.0,
            )
            .unwrap();
            text(&mut svg, "ink", "start", left + length.max(high - left) + 6.0, y + 14.0, &short(*value));
        }
    }
    svg + "</svg>\n"
}

/// Lines over logarithmic axes, one panel beside the other, with one legend.
pub fn lines(title: &str, panels: &[Panel]) -> String {
    let (wide, high, left, top) = (360.0, 280.0, 60.0, 68.0);
    let panel = wide + left + 20.0;
    let mut names: Vec<&Series> = Vec::new();
    for series in panels.iter().flat_map(|panel| &panel.series) {
        if !names.iter().any(|known| known.name == series.name) {
            names.push(series);
        }
    }
    let legend_rows = names.len().div_ceil(4) as f64;
    let (width, height) = (panel * panels.len() as f64 + 10.0, top + high + 60.0 + legend_rows * 20.0);
    let mut svg = open(width, height, title);
    text(&mut svg, "ink title", "start", 16.0, 26.0, title);
    for (index, Panel { title, x, series }) in panels.iter().enumerate() {
        let left = index as f64 * panel + left;
        text(&mut svg, "ink", "start", left, top - 14.0, title);
        let points = || series.iter().flat_map(|series| &series.points).filter(|point| point.1 > 0.0);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) = points()
                .map(of)
                .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
            (low.log10(), high.log10())
        };
        if points().next().is_none() {
            continue;
        }
        let ((x0, x1), (y0, y1)) = (range(|point| point.0), range(|point| point.1));
        let (y0, y1) = (y0.floor(), y1.ceil().max(y0.floor() + 1.0));
        let at_x = |value: f64| left + (value.log10() - x0) / (x1 - x0).max(1e-9) * wide;
        let at_y = |value: f64| top + high - (value.log10() - y0) / (y1 - y0) * high;
        for power in y0 as i32..=y1 as i32 {
            let value = 10f64.powi(power);
            let y = at_y(value);
            writeln!(svg, r#"<path class="grid" d="M{left:.1} {y:.1}h{wide}"/>"#).unwrap();
            text(&mut svg, "faint", "end", left - 6.0, y + 4.0, &short(value));
        }
        let mut xs: Vec<f64> = points().map(|point| point.0).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        for value in xs {
            text(&mut svg, "faint", "middle", at_x(value), top + high + 18.0, &short(value));
        }
        text(&mut svg, "faint", "middle", left + wide / 2.0, top + high + 38.0, x);
        for Series { is_ours, colour, points, .. } in series {
            let (colour, thick) = (COLOURS[*colour], if *is_ours { 3.0 } else { 1.5 });
            let path: Vec<_> = points
                .iter()
                .filter(|point| point.1 > 0.0)
                .map(|(x, y)| format!("{:.1} {:.1}", at_x(*x), at_y(*y)))
                .collect();
            writeln!(
                svg,
                r#"<path fill="none" stroke="{colour}" stroke-width="{thick}" d="M{}"/>"#,
                path.join("L")
            )
            .unwrap();
            for point in path {
                let (x, y) = point.split_once(' ').unwrap();
                writeln!(svg, r#"<circle cx="{x}" cy="{y}" r="{}" fill="{colour}"/>"#, thick + 1.0).unwrap();
            }
        }
    }
    for (index, Series { name, is_ours, colour, .. }) in names.into_iter().enumerate() {
        let step = (width - 40.0) / 4.0;
        let (x, y) = (20.0 + (index % 4) as f64 * step, top + high + 62.0 + (index / 4) as f64 * 20.0);
        let (colour, thick) = (COLOURS[*colour], if *is_ours { 3.0 } else { 1.5 });
        writeln!(svg, r#"<path stroke="{colour}" stroke-width="{thick}" d="M{x:.1} {:.1}h20"/>"#, y - 4.0)
            .unwrap();
        text(&mut svg, "ink", "start", x + 26.0, y, name);
    }
    svg + "</svg>\n"
}
