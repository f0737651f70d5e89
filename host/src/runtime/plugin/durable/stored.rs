//! What follows once the state of topics is stored, or cannot be.

use std::sync::Arc;

use bennu_wire::message;

use super::{Act, Durable, Written, say_refused, void};
use crate::runtime::plugin::batch::Rest;
use crate::runtime::plugin::env::Env;
use crate::runtime::plugin::shard::{Control, Shard};
use crate::runtime::store::{Done, StoreError};

/// Topics of one batch that have waited for the store, and how that went for each.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(super) waiting: Vec<Waiting>,
    pub(super) results: Vec<Done>,
}

/// A topic that waits for the store. Until then it handles nothing else.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) rest: Rest,
    /// Its effects since it was stored last.
    pub(super) acts: Vec<Act>,
    /// What is stored. `None`: the topic is forgotten.
    pub(super) written: Option<Written>,
}

impl Stored {
    /// Has the shard of these topics go on with them. Never waits for it.
    pub(super) fn hand_to(self, shard: &Shard, env: &Env) {
        if let Err(Control::Stored(stored)) = shard.control(Control::Stored(Box::new(self))) {
            stored.void(env);
        }
    }

    /// The shard was abandoned, and its topics have ended: whoever still waits for an answer is told so.
    pub(in crate::runtime::plugin) fn void(self, env: &Env) {
        for act in self.waiting.into_iter().flat_map(|waiting| waiting.acts) {
            act.fail(env, message::reason::CHANNEL_CRASH);
        }
    }

    /// The topics go on: on their shard.
    pub(in crate::runtime::plugin) fn go_on(self, env: &Env) {
        let Some(durable) = env.slot.durable() else { return };
        for (waiting, result) in self.waiting.into_iter().zip(self.results) {
            match result {
                Ok(()) => waiting.go_on(env),
                Err(error) => {
                    say_refused(&waiting.rest.topic, &error, env);
                    let is_void = durable.commits || matches!(*error, StoreError::Superseded);
                    waiting.fail(durable, is_void, env);
                }
            }
        }
    }
}

impl Waiting {
    fn go_on(self, env: &Env) {
        let Self { rest, acts, written } = self;
        if let Some(stored) = &mut rest.topic.record().stored {
            stored.hash = written.map(|written| written.hash);
            stored.version = written.map_or(0, |written| written.version);
        }
        if rest.leaves && written.is_some() {
            env.slot.stats.hibernated_topics.inc();
        }
        acts.into_iter().for_each(|act| act.take_place(env));
        rest.finish(env);
    }

    /// The state could not be stored. With `durability = "commit"`, or if another node is the topic's home by now, it is void, and so
    /// are the effects: the topic ends, and comes back as it is stored. Otherwise the topic stays in memory as it is.
    pub(super) fn fail(self, durable: &Durable, is_void: bool, env: &Env) {
        let Self { mut rest, acts, .. } = self;
        let topic = Arc::clone(&rest.topic);
        let refused: Vec<_> = { acts.into_iter() }
            .filter_map(|act| act.fail(env, message::reason::STORAGE))
            .collect();
        let mut record = topic.record();
        for member in refused {
            env.dismiss(&topic, &mut record, member);
        }
        rest.leaves = false;
        if is_void {
            record.stored.get_or_insert_default().void = true;
            rest.inputs.push_front(void());
        } else {
            env.linger(&topic, &mut record);
            durable.set_checkpoint(&topic, &mut record, env);
        }
        drop(record);
        rest.finish(env);
    }
}
