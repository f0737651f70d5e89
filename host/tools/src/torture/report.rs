//! The results of all parts, for people and for scripts.

use std::fmt;

use serde::Serialize;

use super::certificate::{Certificate, Pauses};
use super::heartbeats::{self, Heartbeats, Latency};
use super::kills::Kills;
use super::nodes::Nodes;
use super::pauses::{self, Size};
use super::saving::{self, Save};
use super::sleeping::Sleeping;
use super::unloading::Unloading;
use crate::numbers::Percentiles;

/// The results of the parts that have run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// The certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages: Option<Certificate>,
    /// What killed servers have left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kills: Option<Kills>,
    /// What a cluster has gone through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nodes: Option<Nodes>,
    /// What sleeping topics cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sleeping: Option<Sleeping>,
    /// What replaced libraries leave in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unloading: Option<Unloading>,
    /// How long reloads hold topics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) pauses: Vec<Size>,
    /// The latency of heartbeats during a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heartbeats: Option<Heartbeats>,
    /// The time from each save to a reply of the new code.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) saving: Vec<Save>,
}

impl Report {
    /// Whether all requirements are met. There are none for times.
    pub(super) fn passed(&self) -> bool {
        self.messages.as_ref().is_none_or(|certificate| certificate.passed)
            && self.kills.as_ref().is_none_or(|kills| kills.passed)
            && self.nodes.as_ref().is_none_or(|nodes| nodes.passed)
            && self.unloading.as_ref().is_none_or(Unloading::is_clean)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(certificate) = &self.messages {
            writeln!(f, "{certificate}")?;
        }
        if let Some(kills) = &self.kills {
            writeln!(f, "{kills}")?;
        }
        if let Some(nodes) = &self.nodes {
            writeln!(f, "{nodes}")?;
        }
        if let Some(sleeping) = &self.sleeping {
            writeln!(f, "{sleeping}")?;
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
            let Pauses { held, .. } = pauses;
            let Percentiles { p50_ms, p99_ms, max_ms } = held;
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
                "latency of heartbeats while {topics} topics move within {swap_ms:.0} ms (aim: below {} ms)",
                heartbeats::AIM_MS
            )?;
            for (when, Latency { count, latency }) in [("before", idle), ("meanwhile", moving)] {
                let Percentiles { p50_ms, p99_ms, max_ms } = latency;
                writeln!(
                    f,
                    "  {when:<10} {count:>6}   p50 {p50_ms:>6.2} ms   p99 {p99_ms:>6.2} ms   max {max_ms:>6.2} ms"
                )?;
            }
        }
        if !self.saving.is_empty() {
            let Percentiles { p50_ms, max_ms, .. } = Percentiles::of(self.saving.iter().map(Save::added_ms).collect());
            writeln!(
                f,
                "from a saved source file to a reply of the new code, without the build (aim: {} ms): p50 {p50_ms:.0} ms, max {max_ms:.0} ms in {} saves",
                saving::AIM_MS,
                self.saving.len()
            )?;
        }
        Ok(())
    }
}
