//! Messages beyond a limit: they are answered and not delivered. A client that goes on is closed.

use bennu_wire::message::{Message, Payload, TopicName, event, reason};
use bytestring::ByteString;

use super::Core;
use super::dispatch::Dispatched;
use crate::config::Limits;
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::rate::Over;
use crate::server::closes::CloseReason;
use crate::server::limits::{ClientRates, LimitName};

impl Core {
    /// Other limits of clients, from now on. What they have used stays used.
    pub(super) fn set_rates(&mut self, limits: &Limits) {
        let mut rates = ClientRates::new(limits, self.client_rates.now());
        rates.turn(self.client_rates.now());
        for (_, socket) in &mut self.sockets {
            socket.is_limited = rates.limits(socket.info.peer);
        }
        self.client_rates = rates;
    }

    /// What becomes of a message that its client may not send now. `None`: it may, or the message is one that is never refused.
    #[inline]
    pub(super) fn beyond_client_limits(
        &mut self,
        slot: usize,
        message: &Message,
        frame_bytes: usize,
    ) -> Option<Dispatched> {
        let is_join = &*message.event == event::JOIN;
        let taken = { &self.client_rates }.take(&self.sockets[slot].spent, is_join, frame_bytes);
        self.refused_by_client_limits(slot, message, taken.err()?)
    }

    #[cold]
    fn refused_by_client_limits(&mut self, slot: usize, message: &Message, over: Over) -> Option<Dispatched> {
        let limit = LimitName::Client(over.limit);
        if !self.client_rates.bears(&self.sockets[slot].spent) {
            self.note_limited(slot, limit);
            self.close_for(slot, CloseReason::RateLimited, Some(limit.setting()));
            return Some(Dispatched::Refused);
        }
        // Without an answer to its heartbeat a client would believe that the connection is lost, and a leave is less to do.
        if matches!(&*message.event, event::HEARTBEAT | event::LEAVE) {
            return None;
        }
        Some(self.limited(slot, message, limit, over))
    }

    /// Answers a message that is beyond a limit.
    #[cold]
    pub(super) fn limited(&mut self, slot: usize, message: &Message, limit: LimitName, over: Over) -> Dispatched {
        self.note_limited(slot, limit);
        let payload = Payload::reason_until(reason::RATE_LIMITED, over.wait_ms());
        let socket = &self.sockets[slot];
        if &*message.event == event::JOIN {
            let (status, payload) = socket.info.dialect.refusal(&payload);
            let join_ref = message.join_ref.as_deref();
            self.reply(slot, join_ref, &message.msg_ref, &message.topic, status, &payload);
            return Dispatched::Refused;
        }
        let channel = match &message.topic {
            TopicName::Text(topic) => socket.by_topic(topic),
            TopicName::Other(_) => None,
        };
        let own_ref = channel.and_then(|channel| socket.channels[channel].own_ref());
        let join_ref = own_ref.or(message.join_ref.as_deref()).map(ByteString::from);
        self.reply(
            slot,
            join_ref.as_deref(),
            &message.msg_ref,
            &message.topic,
            "error",
            &payload,
        );
        Dispatched::Taken
    }

    fn note_limited(&self, slot: usize, limit: LimitName) {
        self.state.limited.count(limit);
        let info = &self.sockets[slot].info;
        client_line!(
            INFO,
            self.hub().client_lines,
            "limited",
            Source::of(info.peer),
            connection = info.connection,
            peer = %info.peer,
            mount = info.mount.path,
            socket_id = info.socket_id().map(|id| &**id),
            limit = limit.setting(),
            "message refused: beyond a limit"
        );
    }
}
