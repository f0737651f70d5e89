//! All that was run, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::certificate::{Certificate, Pauses, quantile};
use super::heartbeats::{self, Heartbeats, Latency};
use super::pauses::{self, Size};
use super::saving::{self, Save};
use super::unloading::Unloading;

/// All that was run. What was not is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether anything was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Certificate>,
    /// What is left of replaced libraries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unloading: Option<Unloading>,
    /// How long topics are held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pauses: Vec<Size>,
    /// How long heartbeats wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeats: Option<Heartbeats>,
    /// How long a save takes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub saving: Vec<Save>,
}

impl Report {
    /// Whether all is as it must be. Times are only reported.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.messages.as_ref().is_none_or(|certificate| certificate.passed)
            && self.unloading.as_ref().is_none_or(Unloading::is_clean)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(certificate) = &self.messages {
            writeln!(f, "{certificate}")?;
        }
        if let Some(unloading) = &self.unloading {
            writeln!(f, "{unloading}")?;
        }
        if !self.pauses.is_empty() {
            writeln!(
                f,
                "how long a reload holds a topic (aim: p99 below {} ms up to {} KiB)",
                pauses::AIM_MS,
                pauses::AIMED_KIB
            )?;
        }
        for Size { members, kib, pauses } in &self.pauses {
            let Pauses {
                p50_ms, p99_ms, max_ms, ..
            } = pauses;
            writeln!(
                f,
                "  {members:>3} members {kib:>5} KiB   p50 {p50_ms:>8.2} ms   p99 {p99_ms:>8.2} ms   max {max_ms:>8.2} ms"
            )?;
        }
        if let Some(Heartbeats {
            topics,
            swap_ms,
            idle,
            moving,
            ..
        }) = &self.heartbeats
        {
            writeln!(
                f,
                "heartbeats while {topics} topics move, in {swap_ms:.0} ms (aim: below {} ms)",
                heartbeats::AIM_MS
            )?;
            for (
                when,
                Latency {
                    count,
                    p50_ms,
                    p99_ms,
                    max_ms,
                },
            ) in [("before", idle), ("meanwhile", moving)]
            {
                writeln!(
                    f,
                    "  {when:<10} {count:>6}   p50 {p50_ms:>6.2} ms   p99 {p99_ms:>6.2} ms   max {max_ms:>6.2} ms"
                )?;
            }
        }
        if !self.saving.is_empty() {
            let mut added: Vec<f64> = self.saving.iter().map(Save::added_ms).collect();
            added.sort_by(f64::total_cmp);
            let at = |part| quantile(&added, part).unwrap_or_default();
            writeln!(
                f,
                "from a saved source to an answer of the new code, beside the build (aim: {} ms): p50 {:.0} ms, max {:.0} ms in {} saves",
                saving::AIM_MS,
                at(0.5),
                at(1.0),
                added.len()
            )?;
        }
        Ok(())
    }
}
