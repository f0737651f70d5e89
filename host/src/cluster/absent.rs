//! A build without clusters: no value of these types exists. The configuration refuses `[cluster]`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::answers::{Answers, Gathered, Home, NoAnswer};
use crate::runtime::plugin::Hub;
use crate::runtime::pubsub::PubSub;
use crate::runtime::store::Engine;

/// There is none.
#[derive(Debug)]
pub(crate) struct Cluster(Infallible);

/// There is none.
pub(crate) type ClusterError = Infallible;

impl Cluster {
    /// There is none to prepare.
    pub(crate) fn prepare(_: &crate::config::Cluster, _: usize) -> Result<Self, ClusterError> {
        unreachable!("the configuration refuses `[cluster]`")
    }

    pub(crate) fn widen(&self, _: PubSub) -> PubSub {
        match self.0 {}
    }

    pub(crate) fn run(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn name(&self) -> &str {
        match self.0 {}
    }

    pub(crate) async fn ask(&self, _: u64, _: Bytes, _: Duration) -> Result<Bytes, NoAnswer> {
        match self.0 {}
    }

    pub(crate) async fn others(&self) -> Option<Vec<(String, u64)>> {
        match self.0 {}
    }

    pub(crate) async fn ask_all(&self, _: Bytes, _: Duration) -> Option<Gathered> {
        match self.0 {}
    }

    pub(crate) fn home(&self, _: &str) -> Home {
        match self.0 {}
    }

    pub(crate) async fn join(&self, _: &Arc<Hub>, _: Arc<dyn Answers>) -> Result<(), ClusterError> {
        match self.0 {}
    }

    pub(crate) async fn store(&self, _: u64) -> Result<Box<dyn Engine>, ClusterError> {
        match self.0 {}
    }

    pub(crate) async fn hand_over(&self, _: std::time::Duration) {
        match self.0 {}
    }

    pub(crate) async fn leave(&self) {
        match self.0 {}
    }

    pub(crate) async fn report(&self) -> Option<Value> {
        match self.0 {}
    }

    pub(crate) fn home_of(&self, _: &str) -> Value {
        match self.0 {}
    }

    pub(crate) fn register(&self, _: &mut Registry) {
        match self.0 {}
    }
}
