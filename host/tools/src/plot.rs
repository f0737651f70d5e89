//! Line charts as SVG text.

use std::fmt::Write as _;

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines: a name and points each.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
    /// A dashed horizontal line at this value, with a name.
    pub aim: Option<(f64, String)>,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The label, with the unit.
    pub label: String,
    /// Whether the scale is logarithmic.
    pub is_logarithmic: bool,
}

impl Axis {
    /// An axis with a linear scale, from zero or from the smallest value if that is negative.
    #[must_use]
    pub fn linear(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            is_logarithmic: false,
        }
    }

    /// An axis with a logarithmic scale.
    #[must_use]
    pub fn logarithmic(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            is_logarithmic: true,
        }
    }
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 450.0;
/// The maximum number of decades on a logarithmic axis.
const MOST_DECADES: i32 = 20;
/// Left, right, top and bottom.
const MARGINS: [f64; 4] = [70.0, 20.0, 40.0, 50.0];
const COLOURS: [&str; 5] = ["#0b6e99", "#c2541d", "#3a7d34", "#7b4397", "#555"];

impl Chart {
    /// The chart as an SVG file.
    #[must_use]
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let aims = self.aim.iter().map(|(level, _)| *level);
        let across = Scale::new(&self.x, points().map(|point| point.0), [MARGINS[0], WIDTH - MARGINS[1]]);
        let up = Scale::new(
            &self.y,
            points().map(|point| point.1).chain(aims),
            [HEIGHT - MARGINS[3], MARGINS[2]],
        );
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, WIDTH / 2.0, 22.0, "middle", "#000", &self.title);
        self.axes(&mut svg, &across, &up);
        for (at, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let path: Vec<String> = points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", across.place(*x), up.place(*y)))
                .collect();
            element(
                &mut svg,
                &format!(
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
                    path.join(" ")
                ),
            );
            text(
                &mut svg,
                MARGINS[0] + 12.0,
                MARGINS[2] + 16.0 * (at as f64 + 1.0),
                "start",
                colour,
                name,
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String, across: &Scale, up: &Scale) {
        let (left, right, bottom) = (MARGINS[0], WIDTH - MARGINS[1], HEIGHT - MARGINS[3]);
        for value in across.ticks() {
            let x = across.place(value);
            element(
                svg,
                &format!("<path d=\"M{x:.1} {} V{bottom}\" stroke=\"#eee\"/>", MARGINS[2]),
            );
            text(svg, x, bottom + 18.0, "middle", "#000", &short(value));
        }
        for value in up.ticks() {
            let y = up.place(value);
            element(svg, &format!("<path d=\"M{left} {y:.1} H{right}\" stroke=\"#eee\"/>"));
            text(svg, left - 8.0, y + 4.0, "end", "#000", &short(value));
        }
        element(
            svg,
            &format!(
                "<path d=\"M{left} {} V{bottom} H{right}\" fill=\"none\" stroke=\"#000\"/>",
                MARGINS[2]
            ),
        );
        text(
            svg,
            (left + right) / 2.0,
            HEIGHT - 12.0,
            "middle",
            "#000",
            &self.x.label,
        );
        text(svg, left, MARGINS[2] - 8.0, "middle", "#000", &self.y.label);
        if let Some((level, name)) = &self.aim {
            let y = up.place(*level);
            element(
                svg,
                &format!("<path d=\"M{left} {y:.1} H{right}\" stroke=\"#999\" stroke-dasharray=\"6 4\"/>"),
            );
            text(svg, right, y - 5.0, "end", "#777", name);
        }
    }
}

/// Maps values to places on an axis.
struct Scale {
    is_logarithmic: bool,
    values: [f64; 2],
    places: [f64; 2],
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, places: [f64; 2]) -> Self {
        let smallest = if axis.is_logarithmic { 1e-3 } else { f64::MIN };
        let (mut least, mut most) = (f64::MAX, f64::MIN);
        for value in values.filter(|value| value.is_finite()) {
            least = least.min(value.max(smallest));
            most = most.max(value.max(smallest));
        }
        if least > most {
            (least, most) = (smallest.max(0.0), 1.0);
        }
        let values = if axis.is_logarithmic {
            [
                10f64.powf(least.log10().floor()),
                10f64.powf(most.log10().ceil()).max(least * 10.0),
            ]
        } else {
            [least.min(0.0), (most * 1.05).max(least.min(0.0) + 1e-9)]
        };
        Self {
            is_logarithmic: axis.is_logarithmic,
            values,
            places,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let [least, most] = self.values;
        let part = if self.is_logarithmic {
            (value.max(least) / least).log10() / (most / least).log10()
        } else {
            (value - least) / (most - least)
        };
        self.places[0] + part * (self.places[1] - self.places[0])
    }

    fn ticks(&self) -> Vec<f64> {
        let [least, most] = self.values;
        if self.is_logarithmic {
            let decades = ((most / least).log10().round() as i32).min(MOST_DECADES);
            return (0..=decades).map(|decade| least * 10f64.powi(decade)).collect();
        }
        let rough = (most - least) / 6.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|times| times * unit)
            .into_iter()
            .find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (least / step).ceil() as i64;
        (first..)
            .map(|at| at as f64 * step)
            .take_while(|value| *value <= most)
            .collect()
    }
}

fn element(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
    )
    .expect("text grows");
}

/// At most three decimals.
fn short(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_has_round_ticks_and_starts_at_zero() {
        let scale = Scale::new(&Axis::linear("ms"), [3.0, 100.0].into_iter(), [0.0, 105.0]);
        assert_eq!(scale.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert!((scale.place(100.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_logarithmic_scale_has_decades() {
        let scale = Scale::new(&Axis::logarithmic("ms"), [0.2, 40.0].into_iter(), [0.0, 3.0]);
        assert_eq!(scale.ticks().len(), 4);
        assert!((scale.place(1.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_chart_names_its_lines_and_escapes_them() {
        let chart = Chart {
            title: "pauses".into(),
            x: Axis::linear("reloads"),
            y: Axis::linear("ms"),
            lines: vec![("a < b".into(), vec![(0.0, 1.0), (1.0, 2.0)])],
            aim: Some((1.5, "aim".into())),
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("polyline") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_chart_without_points_is_valid() {
        let chart = Chart {
            title: String::new(),
            x: Axis::logarithmic("KiB"),
            y: Axis::linear("ms"),
            lines: Vec::new(),
            aim: None,
        };
        assert!(!chart.svg().contains("NaN"));
    }
}
