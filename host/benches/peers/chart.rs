//! Charts as SVG, readable on light and on dark pages.

use std::fmt::Write as _;

use crate::Runs;
use crate::servers::Peer;
use crate::table::{Line, lines};

const WIDTH: f64 = 860.0;
/// What the names of the rows take.
const LEFT: f64 = 290.0;
/// What the figures behind the bars take.
const RIGHT: f64 = 120.0;
const BAR: f64 = 14.0;
const GAP: f64 = 14.0;
const TOP: f64 = 56.0;
/// A bar of this share of socketioxide's fills the width; longer ones are cut.
const FULL: f64 = 2.0;

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Bennu => "#d9480f",
        Peer::Socketioxide => "#868e96",
        Peer::SocketIo => "#bac8d3",
        Peer::Floor => "#f08c00",
    }
}

/// The cost of each row, as a share of what it costs socketioxide: less is better.
pub(crate) fn bars(peers: &[Peer], runs: &Runs) -> String {
    let lines = lines(peers, runs);
    let group = BAR * peers.len() as f64 + GAP;
    let height = TOP + group * lines.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\">\n<style>text {{ fill: #343a40 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #dee2e6 }} \
         }}</style>\n<text x=\"8\" y=\"18\" font-size=\"14\">What it costs the server: shorter is better</text>\n"
    );
    let mut x = 8.0;
    for peer in peers {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"30\" width=\"12\" height=\"12\" fill=\"{}\"/>",
            colour(*peer)
        );
        let _ = writeln!(svg, "<text x=\"{}\" y=\"41\">{}</text>", x + 17.0, peer.name());
        x += 150.0;
    }
    for (at, line) in lines.iter().enumerate() {
        row(&mut svg, peers, line, TOP + group * at as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, peers: &[Peer], line: &Line, y: f64) {
    let middle = y + BAR * peers.len() as f64 / 2.0 + 4.0;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LEFT - 8.0,
        line.figure.name
    );
    for (at, peer) in peers.iter().enumerate() {
        let (Some(value), Some(ratio)) = (line.values[at], line.ratio(peers, at)) else {
            continue;
        };
        let share = if line.figure.more_is_better { 1.0 / ratio } else { ratio };
        let width = (WIDTH - LEFT - RIGHT) * share.min(FULL) / FULL;
        let y = y + BAR * at as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>",
            BAR - 2.0,
            colour(*peer)
        );
        let cut = if share > FULL { "› " } else { "" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\">{cut}{} {}</text>",
            LEFT + width + 5.0,
            y + BAR - 3.0,
            line.figure.show(value),
            line.figure.unit
        );
    }
}
