//! The figures as a table, in Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Runs;
use crate::rows::{Figure, ROWS, Row, lost};
use crate::servers::Peer;

/// A figure of a row, and the best of each server's runs.
pub(crate) struct Line {
    pub(crate) figure: &'static Figure,
    /// In the order of the servers; none where there was no run.
    pub(crate) values: Vec<Option<f64>>,
    pub(crate) lost: Vec<u64>,
}

impl Line {
    /// A server's figure as a share of socketioxide's.
    pub(crate) fn ratio(&self, peers: &[Peer], at: usize) -> Option<f64> {
        let base = peers.iter().position(|peer| *peer == Peer::Socketioxide)?;
        Some(self.values[at]? / self.values[base]?)
    }
}

/// All figures of which there are runs.
pub(crate) fn lines(peers: &[Peer], runs: &Runs) -> Vec<Line> {
    let figures = ROWS
        .iter()
        .flat_map(|row| row.figures.iter().map(move |figure| (row, figure)));
    { figures }
        .map(|(row, figure)| Line {
            figure,
            values: peers
                .iter()
                .map(|peer| figure.best(of(runs, row, *peer).iter().filter_map(|run| figure.read(run))))
                .collect(),
            lost: peers
                .iter()
                .map(|peer| of(runs, row, *peer).iter().map(lost).sum())
                .collect(),
        })
        .filter(|line| line.values.iter().any(Option::is_some))
        .collect()
}

fn of<'a>(runs: &'a Runs, row: &Row, peer: Peer) -> &'a [Value] {
    runs.get(&(row.name, peer.name())).map_or(&[], Vec::as_slice)
}

/// The table, and what lies behind it.
pub(crate) fn table(peers: &[Peer], runs: &Runs) -> String {
    let mut text = String::from("| |");
    for peer in peers {
        let _ = write!(text, " {} |", peer.name());
    }
    text.push_str(" Bennu ÷ socketioxide | bar | goal |\n|---|");
    text.push_str(&"---|".repeat(peers.len() + 3));
    text.push('\n');
    for line in lines(peers, runs) {
        let _ = write!(text, "| {}, {} |", line.figure.name, line.figure.unit);
        for (value, lost) in line.values.iter().zip(&line.lost) {
            let value = value.map_or_else(|| "–".to_owned(), |value| line.figure.show(value));
            let lost = if *lost > 0 {
                format!(" ({lost} lost)")
            } else {
                String::new()
            };
            let _ = write!(text, " {value}{lost} |");
        }
        text.push_str(&verdict(peers, &line));
        text.push('\n');
    }
    text
}

/// The ratio, in bold where the bar does not hold, the bar, and the goal.
fn verdict(peers: &[Peer], line: &Line) -> String {
    let bennu = peers.iter().position(|peer| *peer == Peer::Bennu);
    let ratio = bennu.and_then(|at| line.ratio(peers, at));
    let shown = ratio.map_or_else(
        || "–".to_owned(),
        |ratio| match line.figure.bar {
            Some(bar) if !line.figure.holds(ratio, bar) => format!("**{ratio:.3}**"),
            _ => format!("{ratio:.3}"),
        },
    );
    let sign = if line.figure.more_is_better { "≥" } else { "≤" };
    let wanted = |wanted: Option<f64>| wanted.map_or_else(|| "–".to_owned(), |wanted| format!("{sign} {wanted}"));
    format!(
        " {shown} | {} | {} |",
        wanted(line.figure.bar),
        wanted(line.figure.goal)
    )
}
