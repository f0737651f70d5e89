//! A build without traces: no value of these types exists. The configuration refuses `[telemetry]`.

use std::convert::Infallible;
use std::sync::Arc;

use crate::config::Telemetry;
use crate::runtime::trace::Tracer;

/// There is none.
#[derive(Debug)]
pub(crate) struct Exporter(Infallible);

/// There is none.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {}

impl Exporter {
    /// There is none to prepare.
    pub(crate) fn prepare(_: &Telemetry) -> Result<Self, TelemetryError> {
        unreachable!("the configuration refuses `[telemetry]`")
    }

    pub(crate) fn start(self) -> std::io::Result<Self> {
        match self.0 {}
    }

    pub(crate) fn tracer(&self) -> Arc<Tracer> {
        match self.0 {}
    }

    pub(crate) async fn finish(self) {
        match self.0 {}
    }
}
