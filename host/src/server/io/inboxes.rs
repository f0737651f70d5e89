//! The ways to all I/O threads of a server.

use std::sync::{Arc, mpsc};

use super::entry::{Entry, Rerouted};
use super::inbox::Inbox;
use crate::runtime::delivery::Outlet;
use crate::server::routing::Routing;

/// The inbox of each I/O thread, in their order. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Inboxes(Arc<[Arc<Inbox>]>);

impl Inboxes {
    /// The inboxes of these threads.
    #[must_use]
    pub(crate) fn new(inboxes: Vec<Arc<Inbox>>) -> Self {
        Self(inboxes.into())
    }

    /// How many threads there are.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The inbox of one thread.
    #[must_use]
    pub(crate) fn get(&self, thread: usize) -> Option<&Arc<Inbox>> {
        self.0.get(thread)
    }

    /// Sends to every thread.
    pub(crate) fn send_all(&self, mut entry: impl FnMut() -> Entry) {
        self.0.iter().for_each(|inbox| inbox.push(entry()));
    }

    /// The same inboxes for shards, which only send deliveries.
    #[must_use]
    pub(crate) fn outlets(&self) -> Vec<Box<dyn Outlet>> {
        let outlet = |inbox: &Arc<Inbox>| Box::new(Arc::clone(inbox)) as Box<dyn Outlet>;
        self.0.iter().map(outlet).collect()
    }

    /// Has every thread take up other routes. Each sends whose members ended by that.
    #[must_use]
    pub(crate) fn set_routing(&self, routing: &Arc<Routing>) -> mpsc::Receiver<Rerouted> {
        let (done, all_done) = mpsc::channel();
        self.send_all(|| Entry::Routing(Arc::clone(routing), done.clone()));
        all_done
    }
}
