//! Tells a topic when tokens of its members expire, for plugins that end a channel then and let the connection stay
//! (`on_expiry = "keep"` of the mount). One timer serves all members.
//!
//! [`Expiries`] is part of [`Channel::Shared`](crate::Channel::Shared). A member [sets](Expiries::set) its time when it joins and in
//! [`Channel::claims_changed`](crate::Channel::claims_changed), and takes it back in
//! [`Channel::terminate`](crate::Channel::terminate). At the message [`DUE`], [`Channel::handle_topic_info`](crate::Channel::handle_topic_info)
//! [takes](Expiries::take) those whose time has come.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Context, MemberId, Timer};

/// The message to the topic when tokens have expired.
pub const DUE: &str = "tokens are due";
/// The longest that a timer runs. Then it looks again.
const DAY_S: u64 = 24 * 60 * 60;
/// A token that is good for longer is not looked at: API keys may be good for ten years.
const FAR_S: u64 = 366 * DAY_S;

/// The members whose token expires, the next one first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Expiries {
    clients: BTreeSet<(u64, MemberId)>,
    /// What the timer waits for, in seconds since 1970.
    timer: Option<(u64, Timer)>,
}

impl Expiries {
    /// The token of the callback's member expires at `new` instead of `old`, in seconds since 1970. Returns what to say as `old` the
    /// next time: `None` for a token that expires in a year or later, or never.
    pub fn set<P>(&mut self, old: Option<u64>, new: Option<u64>, cx: &Context<P>) -> Option<u64> {
        let (member, new) = (cx.member()?, new.filter(|new| *new < now_s().saturating_add(FAR_S)));
        if let Some(old) = old {
            self.clients.remove(&(old, member));
        }
        self.clients.extend(new.map(|new| (new, member)));
        self.wait(cx);
        new
    }

    /// Takes out the members whose token has expired, now that [`DUE`] has come. The plugin has to end their channels.
    pub fn take<P>(&mut self, cx: &Context<P>) -> Vec<MemberId> {
        let (mut due, until) = (Vec::new(), self.timer.take().map_or(0, |(until, _)| until));
        while let Some(&(at, member)) = self.clients.first().filter(|(at, _)| *at <= until) {
            self.clients.remove(&(at, member));
            due.push(member);
        }
        self.wait(cx);
        due
    }

    /// Waits for the next one, unless a timer comes before that anyway.
    fn wait<P>(&mut self, cx: &Context<P>) {
        let now = now_s();
        let Some(&(next, _)) = self.clients.first() else { return };
        let next = next.min(now.saturating_add(DAY_S));
        if self.timer.is_some_and(|(at, _)| at <= next) {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            cx.cancel(timer);
        }
        let delay = Duration::from_secs(next.saturating_sub(now));
        self.timer = Some((next, cx.topic_send_after(delay, DUE, json!({}))));
    }
}

/// The time by the wall clock, by which tokens expire, in seconds since 1970.
#[must_use]
pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
