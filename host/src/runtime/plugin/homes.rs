//! Where topics live, if the host is one of several nodes: the seam that a cluster fills.
//!
//! A topic has one home, whichever node its clients are on. A host that is alone has no [`Homes`], and each question here is then
//! one branch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bennu_wire::message::Payload;
use bytestring::ByteString;

use super::hub::{Hub, NotCalled};
use super::slot::{JoinRefused, PluginSlot};
use crate::runtime::channel::{Caller, Create, Input, Topic};
use crate::runtime::reach::Reach;

/// Knows the home of each topic, and the way there.
pub(crate) trait Homes: fmt::Debug + Send + Sync {
    /// Whether this node is the topic's home, as far as it knows. It may be on its way to another node.
    fn is_here(&self, topic: &str) -> bool;

    /// Gives a join to its topic, here or at another node. What it returns takes all that the client sends to the topic.
    ///
    /// # Errors
    ///
    /// As [`PluginSlot::enter`], or if the home cannot be reached.
    fn enter(
        &self,
        hub: &Hub,
        slot: &Arc<PluginSlot>,
        topic: &ByteString,
        join: Input,
    ) -> Result<Arc<Topic>, JoinRefused>;

    /// Gives an input to a topic of this node, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// As [`PluginSlot::enter`], or if the topic is not here, or about to leave.
    fn enter_here(
        &self,
        hub: &Hub,
        slot: &Arc<PluginSlot>,
        topic: &ByteString,
        input: Input,
    ) -> Result<Arc<Topic>, JoinRefused>;

    /// Counts a broadcast that a topic asked for after another node has become its home.
    fn fenced(&self, topic: &str);

    /// Has the home of a topic publish there. What cannot be sent is counted and logged. May wait while too much waits for other
    /// nodes.
    fn publish(&self, topic: ByteString, event: ByteString, payload: Payload, reach: Option<Reach>);

    /// Has the home of a topic give it a message. As [`publish`](Self::publish).
    fn send_to(&self, topic: ByteString, name: ByteString, payload: Payload);

    /// Has the home of a topic ask it for a backend.
    ///
    /// # Errors
    ///
    /// If the home cannot be reached.
    fn call(
        &self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        create: Create,
        caller: Caller,
    ) -> Result<(), NotCalled>;

    /// Has all other nodes refuse a socket id for so long.
    fn refuse(&self, socket_id: ByteString, wait: Duration);

    /// Waits if this node has stood still for so long that others may have taken its topics, until it knows.
    fn settle(&self);
}
