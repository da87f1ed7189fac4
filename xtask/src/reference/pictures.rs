//! The pictures that are drawn from `texts/pictures`: rows of bars over time, with arrows between them, for light and dark
//! screens.
//!
//! `end T` is the last moment, `lane NAME` begins a row, `bar FROM TO COLOUR TEXT` is in that row, `arrow LANE T LANE T` leads
//! from one row to another (the first is 0), and `mark T TEXT` is a line through all rows. The first line is the title.

use std::fmt::Write;

const LEFT: f64 = 130.0;
const WIDTH: f64 = 860.0;
const TOP: f64 = 34.0;
const ROW: f64 = 56.0;
const BAR: f64 = 28.0;
/// The width of a character of 12 pixels, by which a text that is too long for its bar is found.
const LETTER: f64 = 6.6;

const STYLE: &str = "<style>\
.paper{fill:#ffffff}.ink{fill:#1f2328}.line{stroke:#656d76;fill:none}.tip{fill:#656d76}\
.plain{fill:#cfe1fa}.good{fill:#c8ead5}.wait{fill:#e6e9ee}.bad{fill:#f8d3cf}\
@media (prefers-color-scheme:dark){\
.paper{fill:#0d1117}.ink{fill:#e6edf3}.line{stroke:#8d96a0}.tip{fill:#8d96a0}\
.plain{fill:#1c3a63}.good{fill:#1b4d33}.wait{fill:#30363d}.bad{fill:#6b2622}}\
</style>";

/// Each picture: its path in the repository, and its text.
pub fn files() -> [(&'static str, String); 4] {
    [
        ("docs/images/lock.svg", drawn(include_str!("texts/pictures/lock.txt"))),
        ("docs/images/write.svg", drawn(include_str!("texts/pictures/write.txt"))),
        ("docs/images/migration.svg", drawn(include_str!("texts/pictures/migration.txt"))),
        ("docs/images/gateway.svg", drawn(include_str!("texts/pictures/gateway.txt"))),
    ]
}

fn drawn(text: &str) -> String {
    let (title, lines) = text.split_once('\n').unwrap_or((text, ""));
    let (mut end, mut lanes) = (1.0, 0);
    let (mut bars, mut arrows, mut marks) = (String::new(), String::new(), String::new());
    let x = |end: f64, at: f64| LEFT + at / end * (WIDTH - LEFT - 10.0);
    let top = |lane: f64| TOP + lane * ROW;
    for line in lines.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let number = |place: usize| -> f64 {
            words
                .get(place)
                .and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("a number: {line}"))
        };
        let after = |count: usize| words.get(count..).unwrap_or_default().join(" ");
        match kind {
            "" => {}
            "end" => end = number(0),
            "lane" => {
                let y = top(f64::from(lanes)) + BAR / 2.0 + 4.0;
                let _ = writeln!(
                    bars,
                    r#"<text class="ink" x="10" y="{y}" font-weight="bold">{rest}</text>"#
                );
                lanes += 1;
            }
            "bar" => {
                let (from, to, y) =
                    (x(end, number(0)), x(end, number(1)), top(f64::from(lanes - 1)));
                let (colour, label) = (words[2], after(3));
                let room = (to - from) / LETTER;
                assert!(
                    (label.chars().count() as f64) < room,
                    "longer than its bar ({room}): {line}"
                );
                let (width, middle, base) =
                    (to - from - 2.0, (from + to) / 2.0, y + BAR / 2.0 + 4.0);
                let _ = writeln!(
                    bars,
                    r#"<rect class="{colour}" x="{from:.0}" y="{y}" width="{width:.0}" height="{BAR}" rx="4"/>
<text class="ink" x="{middle:.0}" y="{base}" text-anchor="middle">{label}</text>"#
                );
            }
            "arrow" => {
                let (first, last) = (number(0), number(2));
                let (from, to) = if first < last { (BAR, 0.0) } else { (0.0, BAR) };
                let (x1, y1, x2, y2) =
                    (x(end, number(1)), top(first) + from, x(end, number(3)), top(last) + to);
                let _ = writeln!(
                    arrows,
                    r#"<path class="line" d="M{x1:.0} {y1:.0}L{x2:.0} {y2:.0}" marker-end="url(#to)"/>"#
                );
            }
            "mark" => {
                let (at, label) = (x(end, number(0)), after(1));
                let _ = writeln!(
                    marks,
                    r#"<path class="line" d="M{at:.0} 22V{{bottom}}" stroke-dasharray="3 4"/>
<text class="ink" x="{at:.0}" y="16" text-anchor="middle">{label}</text>"#
                );
            }
            _ => panic!("a kind of line: {line}"),
        }
    }
    let height = top(f64::from(lanes)) - ROW + BAR + 14.0;
    let marks = marks.replace("{bottom}", &(height - 6.0).to_string());
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" role="img">
<title>{title}</title>
{STYLE}
<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>
<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>
{marks}{bars}{arrows}</svg>
"#
    )
}
