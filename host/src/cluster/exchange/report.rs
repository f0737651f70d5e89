//! How things stand, for `/cluster` and `bennu cluster`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Exchange;
use super::taking::Taking;
use crate::cluster::table::Place;
use crate::runtime::clock;

impl Exchange {
    pub(super) fn report(&self) -> Value {
        let entries = self.shared.table.read();
        let mut homes: BTreeMap<&str, usize> = BTreeMap::new();
        let mut nowhere = 0;
        for entry in entries.iter() {
            if matches!(entry.place, Place::Nowhere) {
                nowhere += 1;
            } else if let Some(home) = &entry.home {
                *homes.entry(home.as_str()).or_default() += 1;
            }
        }
        let (guests, away) = (self.guests.by_session(), self.away.by_session());
        let now = clock::now();
        let nodes = self.live.values().map(|live| {
            let peer = self.peers.get(&live.id);
            let session = peer.map_or(0, |peer| peer.session);
            let is_this = live.id == self.me;
            let link = match peer {
                None if is_this => Value::Null,
                None => "none".into(),
                Some(peer) if peer.way.is_up() => "up".into(),
                Some(_) => "down".into(),
            };
            json!({
                "node": live.id.name(),
                "id": live.id.as_str(),
                "this": is_this,
                "version": live.lease.version,
                "since_unix_ms": live.lease.since_unix_ms,
                "leaving": live.is_leaving || (is_this && self.handing_over.is_some()),
                "seen_ms_ago": now.saturating_duration_since(live.seen).as_millis() as u64,
                "partitions": homes.get(live.id.as_str()).copied().unwrap_or(0),
                "link": link,
                "link_breaks": peer.map(|peer| peer.breaks),
                "waiting_bytes": peer.map(|peer| peer.link.waiting()),
                "unconfirmed_bytes": peer.map(|peer| peer.link.unconfirmed()),
                "members_of_theirs_here": guests.get(&session).copied().unwrap_or(0),
                "members_of_ours_there": away.get(&session).copied().unwrap_or(0),
            })
        });
        json!({
            "cluster": self.config.name,
            "node": self.me.name(),
            "id": self.me.as_str(),
            "connected": self.is_connected,
            "lease_ms": self.config.lease.as_millis() as u64,
            "lease_age_ms": self.keeper.age().as_millis() as u64,
            "nodes": nodes.collect::<Vec<_>>(),
            "partitions": {
                "count": entries.len(),
                "here": entries.iter().filter(|entry| entry.place.is_here()).count(),
                "nowhere": nowhere,
                "misplaced": self.misplaced(),
                "moving": self.writing.len(),
            },
            "moves": {
                "here": self.shared.counts.moved_in.get(),
                "away": self.shared.counts.moved_out.get(),
                "refused": self.shared.counts.refused.get(),
                "coming": self.takes.values().map(Taking::topics).sum::<usize>(),
                "going": self.gives.topics(),
                "partitions_coming": self.takes.len(),
                "partitions_going": self.gives.moves.len(),
                "longest_hold_us": self.gives.longest_hold.as_micros() as u64,
            },
            "mailboxes": self.shared.mailboxes.count(),
        })
    }
}
